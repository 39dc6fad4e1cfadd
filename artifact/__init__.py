"""Artifacts: manifest, hashes, graphs and weights, in memory and on disk."""

from dllmc.artifact._manifest import FORMAT_VERSION, write_atomically
from dllmc.artifact.chat import ChatTemplate, Messages
from dllmc.artifact.files import add_records, hash_weights, load_package, save_package
from dllmc.artifact.graph import graph_from_json, graph_to_json, weights_of
from dllmc.artifact.joint import joint_package
from dllmc.artifact.package import Package
from dllmc.artifact.variants import derive

__all__ = [
    "FORMAT_VERSION",
    "ChatTemplate",
    "Messages",
    "Package",
    "add_records",
    "derive",
    "graph_from_json",
    "graph_to_json",
    "hash_weights",
    "joint_package",
    "load_package",
    "save_package",
    "weights_of",
    "write_atomically",
]
