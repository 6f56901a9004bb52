"""Models on disk: checked headers, lazy reads, adapters, compatibility, durable writes."""

from evomerge.checkpoints._finding import Finding
from evomerge.checkpoints._mapped_file import MappedFile
from evomerge.checkpoints.adapted_model import AdaptedModel
from evomerge.checkpoints.compatibility import check_family
from evomerge.checkpoints.durability import write_atomically
from evomerge.checkpoints.headers import TensorHeader, read_headers
from evomerge.checkpoints.model_folder import ModelFolder
from evomerge.checkpoints.open import open_checkpoint, resolve_reference
from evomerge.checkpoints.output import (
    check_output_file,
    check_output_folder,
    named_errors,
    write_output_file,
)
from evomerge.checkpoints.protocol import Checkpoint
from evomerge.checkpoints.tokenizer import tokenizer_digest, tokenizer_files
from evomerge.checkpoints.writer import CheckpointWriter

__all__ = [
    "AdaptedModel",
    "Checkpoint",
    "CheckpointWriter",
    "Finding",
    "MappedFile",
    "ModelFolder",
    "TensorHeader",
    "check_family",
    "check_output_file",
    "check_output_folder",
    "named_errors",
    "open_checkpoint",
    "read_headers",
    "resolve_reference",
    "tokenizer_digest",
    "tokenizer_files",
    "write_atomically",
    "write_output_file",
]
