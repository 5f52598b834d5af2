//! The tables, in one place, with the versions they went through.
//!
//! `PRAGMA user_version` is the number of [`MIGRATIONS`] applied; `PRAGMA application_id` says that a file is Hull's.
//! A published migration is never edited: a change is a new one at the end. Times (`*_at`) are nanoseconds since
//! 1970, sizes are bytes, digests are `sha256:<hex>`. The three `lease_*` columns are all set while somebody works on
//! the row and all NULL when it is finished. Foreign keys are checked at commit, so the order inside a transaction
//! is free; they are what refuses the removal of an image or a volume that a container has.

/// `HULL` in ASCII, as `PRAGMA application_id`.
pub const APPLICATION_ID: i32 = 0x4855_4c4c;

/// The version this program writes.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// Each entry takes a database from its own index to the next version.
pub const MIGRATIONS: [&str; 8] =
    [VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6, VERSION_7, VERSION_8];

/// The first version that has the table of facts.
pub(crate) const FACTS_SINCE: usize = 3;

const VERSION_1: &str = "
-- An image is its configuration; id is the configuration's digest.
CREATE TABLE images (
    id              TEXT PRIMARY KEY,
    manifest_digest TEXT,               -- of the platform's manifest; NULL when it came without one (docker save)
    size_bytes      INTEGER NOT NULL,   -- its layers' blobs; what they take unpacked is in layers
    created_at      INTEGER NOT NULL    -- when it came into this store
) STRICT, WITHOUT ROWID;

CREATE TABLE image_names (
    name     TEXT PRIMARY KEY,          -- canonical: docker.io/library/debian:12, or name@digest
    image_id TEXT NOT NULL REFERENCES images(id) DEFERRABLE INITIALLY DEFERRED,
    digest   TEXT                       -- what the registry calls it (index or manifest); NULL when not pulled
) STRICT, WITHOUT ROWID;
CREATE INDEX image_names_by_image ON image_names(image_id);

-- A row means: the whole blob is in content/ and on disk.
CREATE TABLE blobs (
    digest     TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    media_type TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE image_blobs (
    image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    digest   TEXT NOT NULL REFERENCES blobs(digest) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (image_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blobs_by_digest ON image_blobs(digest);

-- Which snapshot of a driver is the file system up to a layer.
CREATE TABLE layers (
    chain_id    TEXT NOT NULL,
    driver      TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    diff_id     TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,       -- unpacked, this layer alone
    PRIMARY KEY (chain_id, driver)
) STRICT, WITHOUT ROWID;

-- The layers of an image, lowest first from position 0, and the blob that each came as.
CREATE TABLE image_layers (
    image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    position INTEGER NOT NULL,
    chain_id TEXT NOT NULL,
    diff_id  TEXT NOT NULL,
    digest   TEXT NOT NULL REFERENCES blobs(digest) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (image_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_by_chain ON image_layers(chain_id);
CREATE INDEX image_layers_by_digest ON image_layers(digest);

-- What work in progress needs and nothing else refers to yet.
CREATE TABLE holds (
    kind        TEXT NOT NULL CHECK (kind IN ('blob', 'layer')),
    key         TEXT NOT NULL,          -- a blob's digest, a layer's chain id
    holder      INTEGER NOT NULL,       -- which of its process's pieces of work
    lease_pid   INTEGER NOT NULL,
    lease_start INTEGER NOT NULL,
    lease_boot  TEXT NOT NULL,
    PRIMARY KEY (kind, key, holder, lease_pid, lease_start, lease_boot)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    id          TEXT PRIMARY KEY,
    driver      TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('layer', 'container', 'view')),
    created_at  INTEGER NOT NULL,
    lease_pid   INTEGER,
    lease_start INTEGER,
    lease_boot  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    image_id    TEXT REFERENCES images(id) DEFERRABLE INITIALLY DEFERRED,  -- NULL for a built-in image
    snapshot_id TEXT,
    created_at  INTEGER NOT NULL,
    auto_remove INTEGER NOT NULL,       -- 0 or 1
    lease_pid   INTEGER,                -- set while it is being created or removed
    lease_start INTEGER,
    lease_boot  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX containers_by_image ON containers(image_id);
CREATE INDEX containers_by_snapshot ON containers(snapshot_id);

CREATE TABLE volumes (
    name        TEXT PRIMARY KEY,
    anonymous   INTEGER NOT NULL,       -- 0 or 1
    created_at  INTEGER NOT NULL,
    labels      TEXT NOT NULL,          -- JSON object of strings
    options     TEXT NOT NULL,          -- JSON object of strings
    lease_pid   INTEGER,
    lease_start INTEGER,
    lease_boot  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE container_volumes (
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    volume       TEXT NOT NULL REFERENCES volumes(name) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (container_id, volume)
) STRICT, WITHOUT ROWID;
CREATE INDEX container_volumes_by_volume ON container_volumes(volume);
";

const VERSION_2: &str = "
-- Where else a registry has a blob: what a push can mount in place of sending it.
CREATE TABLE blob_sources (
    digest     TEXT NOT NULL REFERENCES blobs(digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    registry   TEXT NOT NULL,
    repository TEXT NOT NULL,
    PRIMARY KEY (digest, registry, repository)
) STRICT, WITHOUT ROWID;

-- The form in which an uncompressed layer goes to registries; both are blobs of the same images.
CREATE TABLE compressed_layers (
    digest            TEXT PRIMARY KEY REFERENCES blobs(digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    compressed_digest TEXT NOT NULL REFERENCES blobs(digest) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;
CREATE INDEX compressed_layers_by_result ON compressed_layers(compressed_digest);
";

const VERSION_3: &str = "
-- What commands remember for the ones after them (crate::facts).
CREATE TABLE facts (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_4: &str = "
-- Images that nobody asked for (hull_image's unasked.rs); no other image is ever removed by itself.
CREATE TABLE unasked_images (
    image_id TEXT PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    used_at  INTEGER NOT NULL           -- when a container was last made of it or removed
) STRICT, WITHOUT ROWID;
";

const VERSION_5: &str = "
-- Volumes with a size: the project quota that holds each to it (hull_engine's volume_size.rs).
CREATE TABLE volume_projects (
    volume  TEXT PRIMARY KEY REFERENCES volumes(name) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    project INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
";

const VERSION_6: &str = "
-- Networks, and the places that running containers have in them (hull_engine's networks.rs).
CREATE TABLE networks (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    bridge     TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    definition TEXT NOT NULL            -- JSON: hull_network's Network
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoints (
    id           TEXT PRIMARY KEY,
    network_id   TEXT NOT NULL REFERENCES networks(id) DEFERRABLE INITIALLY DEFERRED,
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    ipv4         TEXT,
    ipv6         TEXT,
    boot_id      TEXT NOT NULL,         -- of another boot: the container does not run any more
    definition   TEXT NOT NULL,         -- JSON: hull_network's Endpoint
    UNIQUE (network_id, container_id),
    UNIQUE (network_id, ipv4),
    UNIQUE (network_id, ipv6)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoints_by_container ON endpoints(container_id);
";

const VERSION_7: &str = "
-- Ports of running containers at the host's addresses (hull_network's claims.rs): what the firewall's table is rebuilt from.
CREATE TABLE published_ports (
    protocol     TEXT NOT NULL,         -- tcp, udp or sctp
    host_port    INTEGER NOT NULL,
    host_address TEXT NOT NULL,         -- 0.0.0.0 or :: for every one of the family
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    address      TEXT NOT NULL,         -- the container's
    port         INTEGER NOT NULL,
    PRIMARY KEY (protocol, host_port, host_address)
) STRICT, WITHOUT ROWID;
CREATE INDEX published_ports_by_container ON published_ports(container_id);
";

const VERSION_8: &str = "
-- Who is removing a network; it is nobody's network then (hull_engine's networks/definitions.rs).
ALTER TABLE networks ADD COLUMN lease_pid INTEGER;
ALTER TABLE networks ADD COLUMN lease_start INTEGER;
ALTER TABLE networks ADD COLUMN lease_boot TEXT;
";
