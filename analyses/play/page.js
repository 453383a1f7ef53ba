() => {
  // Ctrl+Enter generates, Escape stops; arrows walk over the tokens of a focused text, which are read out.
  const press = (id) => { const b = document.querySelector(`#${id}`); (b?.tagName === "BUTTON" ? b : b?.querySelector("button"))?.click(); };
  const tokens = (node) => [...node.closest(".play-text").querySelectorAll(".play-token")];
  const read = (token) => {
    const place = document.querySelector(".play-readout");
    if (place && token) place.textContent = `${token.title}   ${JSON.stringify(token.textContent)}`;
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      press("play-generate");
    } else if (event.key === "Escape") {
      press("play-stop");
    } else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && event.target.closest?.(".play-text")) {
      const all = tokens(event.target);
      const now = all.indexOf(event.target);
      const next = event.key === "ArrowRight" ? now + 1 : now < 0 ? all.length - 1 : now - 1;
      if (all[next]) { event.preventDefault(); all[next].focus(); }
    }
  }, true);
  document.addEventListener("focusin", (event) => { if (event.target.matches?.(".play-token")) read(event.target); });
  document.addEventListener("mouseover", (event) => { if (event.target.matches?.(".play-token")) read(event.target); });
}
