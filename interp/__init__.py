"""Methods: model and tensors in, frozen results out, no files but a vector's own."""

from interp.contrast import contrast as contrast
from interp.contrast import contrasts as contrasts
from interp.pairs import AskedPair as AskedPair
from interp.pairs import Pair as Pair
from interp.steering_vector import SteeringVector as SteeringVector
