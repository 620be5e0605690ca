"""The base of every model that a person's YAML file becomes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A model that refuses keys it does not know and cannot be changed after it is read: a misspelt key is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
