"""The interfaces between packages: Protocols of the stores and of the upstream, and the values that
they exchange.
"""

from proxy.ports.artifacts import (
    Artifact as Artifact,
)
from proxy.ports.artifacts import (
    ArtifactStore as ArtifactStore,
)
from proxy.ports.artifacts import (
    Fillable as Fillable,
)
from proxy.ports.artifacts import (
    Followable as Followable,
)
from proxy.ports.artifacts import (
    Partial as Partial,
)
from proxy.ports.artifacts import (
    Published as Published,
)
from proxy.ports.artifacts import (
    Readable as Readable,
)
from proxy.ports.artifacts import (
    Reader as Reader,
)
from proxy.ports.artifacts import (
    Searchable as Searchable,
)
from proxy.ports.artifacts import (
    Source as Source,
)
from proxy.ports.artifacts import (
    Tail as Tail,
)
from proxy.ports.changes import (
    Changes as Changes,
)
from proxy.ports.failures import (
    KeyTaken as KeyTaken,
)
from proxy.ports.failures import (
    LengthMismatch as LengthMismatch,
)
from proxy.ports.failures import (
    PartialLost as PartialLost,
)
from proxy.ports.failures import (
    RecordDamaged as RecordDamaged,
)
from proxy.ports.failures import (
    StorageFull as StorageFull,
)
from proxy.ports.failures import (
    StorageRefused as StorageRefused,
)
from proxy.ports.failures import (
    StoreUnavailable as StoreUnavailable,
)
from proxy.ports.jobs import (
    Counts as Counts,
)
from proxy.ports.jobs import (
    JobStore as JobStore,
)
from proxy.ports.shared_jobs import (
    Bounds as Bounds,
)
from proxy.ports.shared_jobs import (
    JobFeed as JobFeed,
)
from proxy.ports.shared_jobs import (
    KeyClaim as KeyClaim,
)
from proxy.ports.shared_jobs import (
    KeyClaimed as KeyClaimed,
)
from proxy.ports.shared_jobs import (
    Replica as Replica,
)
from proxy.ports.shared_jobs import (
    SharedJobs as SharedJobs,
)
from proxy.ports.shared_jobs import (
    SlotLimits as SlotLimits,
)
from proxy.ports.shared_jobs import (
    SlotUse as SlotUse,
)
from proxy.ports.shared_jobs import (
    Turn as Turn,
)
from proxy.ports.upstream import (
    Field as Field,
)
from proxy.ports.upstream import (
    Fields as Fields,
)
from proxy.ports.upstream import (
    LocalShortage as LocalShortage,
)
from proxy.ports.upstream import (
    Prepared as Prepared,
)
from proxy.ports.upstream import (
    Response as Response,
)
from proxy.ports.upstream import (
    ResponseLost as ResponseLost,
)
from proxy.ports.upstream import (
    Sourced as Sourced,
)
from proxy.ports.upstream import (
    Upstream as Upstream,
)
from proxy.ports.upstream import (
    UpstreamBroken as UpstreamBroken,
)
from proxy.ports.upstream import (
    UpstreamFailure as UpstreamFailure,
)
from proxy.ports.upstream import (
    UpstreamTimedOut as UpstreamTimedOut,
)
from proxy.ports.upstream import (
    UpstreamUnreachable as UpstreamUnreachable,
)
from proxy.ports.upstream import (
    WholeResponse as WholeResponse,
)
