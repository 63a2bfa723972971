"""helm test: the object store takes an object, gives it back and lets it go."""

import os
import sys
import uuid

from medmim.errors import UserError
from medmim.store import open_store

try:
    store = open_store(os.environ["MEDMIM_STORE"])
    key, content = f"checks/{uuid.uuid4().hex}", b"medmim"
    store.write(key, content)
    if store.read(key) != content:
        sys.exit(f"error: {store.uri}/{key} came back changed")
    store.delete(key)
    if store.exists(key):
        sys.exit(f"error: {store.uri}/{key} is still there after it was deleted")
except UserError as error:
    sys.exit(f"error: {error}")
sys.stdout.write(f"{store.uri}: written, read, deleted\n")
