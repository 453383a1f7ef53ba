"""Knowledge and reasoning items with answers of one token, filtered to what a model gets right."""

from analyses.items.facts import Table as Table
from analyses.items.facts import knowledge_items as knowledge_items
from analyses.items.facts import tables as tables
from analyses.items.families import NotEnoughItemsError as NotEnoughItemsError
from analyses.items.families import Survivors as Survivors
from analyses.items.families import all_items as all_items
from analyses.items.families import matched as matched
from analyses.items.families import two_families as two_families
from analyses.items.item import Item as Item
from analyses.items.reasoning import reasoning_items as reasoning_items
from analyses.items.relations import read_relation as read_relation
from analyses.items.survive import Survivor as Survivor
from analyses.items.survive import survive as survive
