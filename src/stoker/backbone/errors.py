"""What can go wrong with the store, beyond the errors of the model.

    StokerError
      StoreDamaged         what was acknowledged is not all there; names the file and the way out
      DataDirectoryInUse   another server has this data directory
      BackboneMissing      no nats-server program, or it does not start
      PlatformError
        BlobMissing        a blob that something refers to is not there
        BlobDamaged        a blob whose content does not fit its digest

The messages of the first three are for the operator: they name paths, since that is what helps.
"""

from __future__ import annotations

from stoker.model.errors import Fault, PlatformError, StokerError


class StoreDamaged(StokerError):
    """What was acknowledged is not all there; nothing is served until the operator decides."""

    code, fault = "store.damaged", Fault.PLATFORM


class DataDirectoryInUse(StokerError):
    """Another server works on this data directory."""

    code, fault = "store.in_use", Fault.PLATFORM


class BackboneMissing(StokerError):
    """There is no nats-server program, or it ends as soon as it is started."""

    code, fault = "backbone.missing", Fault.PLATFORM


class BlobMissing(PlatformError):
    """Nothing, or not all of it, is stored under the digest."""

    code = "blob.missing"


class BlobDamaged(PlatformError):
    """What is stored under the digest has another digest."""

    code = "blob.damaged"
