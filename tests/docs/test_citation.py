"""CITATION.cff and the issue forms say what they must, and nothing that is not so."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_has_what_cff_requires_and_agrees_with_the_package():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cff)  # required by cff 1.2.0
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "software"
    assert cff["title"] == project["name"]
    assert str(cff["version"]) == project["version"]
    assert cff["license"] == project["license"]
    assert cff["abstract"] == project["description"]
    assert cff["authors"] == [{"name": "The unlatch authors"}]


def test_the_citation_invents_no_identifier():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert not re.search(r"\b(doi|url|repository|identifiers|orcid)\b", text)


@pytest.mark.parametrize("form", [f for f in FORMS if f.stem != "config"], ids=lambda f: f.stem)
def test_an_issue_form_asks_for_the_doctors_paste(form: Path):
    asked = yaml.safe_load(form.read_text("utf-8"))
    assert {"name", "description", "body"} <= set(asked)
    fields = {field["id"]: field for field in asked["body"]}
    assert len(fields) == len(asked["body"]), "two fields with one id"
    assert "unlatch doctor" in fields["doctor"]["attributes"]["label"]
    assert all(field["attributes"]["label"] for field in asked["body"])


def test_there_are_forms_for_bugs_and_questions_and_no_blank_issue():
    assert [form.stem for form in FORMS] == ["bug", "config", "question"]
    config = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text("utf-8"))
    assert config["blank_issues_enabled"] is False
