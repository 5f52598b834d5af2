//! The database file: made whole, opened cheaply, used by several processes.
//!
//! - A new database is built under `hull.db.new`, with all its tables, and renamed into place while the root folder
//!   is locked (flock(2)); so an existing `hull.db` is always complete. Migrations run in one transaction.
//!   Write order: folders, database, rename, fsync of the root folder, of `content` and of the folder above the root.
//! - It is in WAL mode with `synchronous=NORMAL`: after a power cut it opens and is consistent, but the newest
//!   transactions may be missing unless they were written by [`Store::write_durable`], which syncs.
//! - Closing does not checkpoint and opening an existing one writes no table. The log is folded back by the writer
//!   that finds it long, and by [`Store::checkpoint`], which is for moments when nobody waits.
//! - SQLite's locks belong to a process: a child made by fork must not use its parent's store.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{Access, AtFlags, FlockOperation};

use crate::{LOOKED_THROUGH_BOOT, Lease, LeaseError, Roots, remember, schema};

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages in the log at which a commit folds it back; small, because the next cold open reads the whole log.
const CHECKPOINT_PAGES: u32 = 256;

/// An open database. It may be shared between threads, which then take turns; a closure given to one of its methods
/// must not call them again.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
}

/// Why the database could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A folder could not be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file could not be opened, locked or renamed.
    #[error("cannot {action} {path}")]
    File {
        /// Open, lock, rename, sync, remove.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The database was written by a newer program.
    #[error(
        "{path} was written by a newer Hull: its format is version {found}, this one reads up to version {supported}"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The newest version this program knows.
        supported: i32,
    },
    /// It is a database, but not Hull's.
    #[error("{path} is a database of another program (application id {application_id:#x})")]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// What it says it belongs to.
        application_id: i32,
    },
    /// The file is damaged or is not a database at all.
    #[error("{path} is damaged")]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another process kept it locked for the whole waiting time.
    #[error("{path} is busy: another process has kept it locked for {seconds} s")]
    Busy {
        /// The database file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A statement failed for another reason (disk full, for example).
    #[error("cannot use the database {path}")]
    Sql {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A statement inside a transaction failed.
    #[error("a database statement failed")]
    Query(#[from] rusqlite::Error),
    /// This process's own lease could not be made.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl Store {
    /// Opens the database of a Hull, making it and the root folder when they do not exist.
    ///
    /// # Errors
    /// [`StoreError`] names the path.
    pub fn open(roots: &Roots) -> Result<Self, StoreError> {
        let path = roots.database();
        if !exists(&path)? {
            create(roots, &path)?;
        }
        let connection = connect(&path)?;
        let store = Self { connection: Mutex::new(connection), path };
        store.check_version(roots)?;
        Ok(store)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads in one consistent view. Writing here is possible for SQLite but against the rule.
    ///
    /// # Errors
    /// The closure's, or [`StoreError`] when the view cannot be opened.
    pub fn read<T, E: From<StoreError>>(&self, read: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        let connection = self.lock();
        let view = Transaction::new_unchecked(&connection, TransactionBehavior::Deferred).map_err(|e| self.name(e))?;
        read(&view)
    }

    /// Writes in one transaction that begins immediately; an error from the closure rolls it back. After a power cut
    /// it may be missing, whole.
    ///
    /// # Errors
    /// The closure's, or [`StoreError`] when beginning or committing fails (foreign keys are checked then).
    pub fn write<T, E: From<StoreError>>(&self, write: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let connection = self.lock();
        self.transact(&connection, write)
    }

    /// As [`Store::write`], and on disk when it returns, together with everything written before.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_durable<T, E: From<StoreError>>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let connection = self.lock();
        connection.pragma_update(None, "synchronous", "FULL").map_err(|e| self.name(e))?;
        let result = self.transact(&connection, write);
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(|e| self.name(e))?;
        result
    }

    /// Folds the log back into the database as far as no reader is in the way.
    ///
    /// # Errors
    /// [`StoreError`] for anything but a busy database.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let connection = self.lock();
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(|e| self.name(e))
    }

    fn transact<T, E: From<StoreError>>(
        &self,
        connection: &Connection,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction =
            Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(|e| self.name(e))?;
        let value = write(&transaction)?;
        transaction.commit().map_err(|e| self.name(e))?;
        Ok(value)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a closure has rolled its transaction back; the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An SQLite error as one that names the file.
    fn name(&self, source: rusqlite::Error) -> StoreError {
        named(&self.path, source)
    }

    fn check_version(&self, roots: &Roots) -> Result<(), StoreError> {
        let (found, application_id) = {
            let connection = self.lock();
            (pragma(&connection, &self.path, "user_version")?, pragma(&connection, &self.path, "application_id")?)
        };
        let path = || self.path.clone();
        if application_id != schema::APPLICATION_ID {
            return Err(StoreError::Foreign { path: path(), application_id });
        }
        if found > schema::VERSION {
            return Err(StoreError::Newer { path: path(), found, supported: schema::VERSION });
        }
        if found < schema::VERSION {
            let _locked = lock_root(roots)?;
            self.write_durable(|transaction| migrate(transaction, &self.path))?;
        }
        Ok(())
    }
}

/// Whether there is a file, without opening it: closing a second descriptor would drop SQLite's locks.
fn exists(path: &Path) -> Result<bool, StoreError> {
    let failed = |source| StoreError::File { action: "open", path: path.to_path_buf(), source };
    match rustix::fs::accessat(rustix::fs::CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let name = |error| named(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(name)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(name)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(name)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true).map_err(name)?;
    connection
        .execute_batch(&format!("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES};"))
        .map_err(name)?;
    Ok(connection)
}

/// Makes the database under another name and puts it into place, unless somebody else has done so meanwhile.
fn create(roots: &Roots, path: &Path) -> Result<(), StoreError> {
    roots.make_root().map_err(|(path, source)| StoreError::Folder { path, source })?;
    let locked = lock_root(roots)?;
    if exists(path)? {
        return Ok(());
    }
    let new = roots.root.join("hull.db.new");
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| StoreError::File { action, path, source }
    };
    for leftover in ["hull.db.new", "hull.db.new-wal", "hull.db.new-shm", "hull.db.new-journal"] {
        let leftover = roots.root.join(leftover);
        match std::fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &leftover)(error)),
            _ => {}
        }
    }
    use std::os::unix::fs::OpenOptionsExt;
    let options = File::options().write(true).create_new(true).mode(0o600).open(&new);
    drop(options.map_err(failed("create", &new))?);
    build(&new)?;
    std::fs::rename(&new, path).map_err(failed("rename", &new))?;
    locked.sync_all().map_err(failed("sync", &roots.root))?;
    let names = [Some(roots.content().as_path()), roots.root.parent()].map(|folder| folder.map(Path::to_path_buf));
    for folder in names.into_iter().flatten() {
        File::open(&folder).and_then(|opened| opened.sync_all()).map_err(failed("sync", &folder))?;
    }
    Ok(())
}

/// A complete, empty database in one file: closing it folds the log back and removes it.
fn build(new: &Path) -> Result<(), StoreError> {
    let name = |error| named(new, error);
    let connection =
        Connection::open_with_flags(new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(name)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(name)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(name)?;
    debug_assert_eq!(mode, "wal");
    let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate).map_err(name)?;
    transaction.pragma_update(None, "application_id", schema::APPLICATION_ID).map_err(name)?;
    migrate(&transaction, new)?;
    transaction.commit().map_err(name)?;
    connection.close().map_err(|(_, error)| name(error))
}

/// Applies what is missing; another process may have done so while this one waited.
fn migrate(transaction: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    let found = pragma(transaction, path, "user_version")?;
    let done = usize::try_from(found).unwrap_or_default();
    for migration in schema::MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration).map_err(|error| named(path, error))?;
    }
    if done < schema::FACTS_SINCE {
        // Nothing has been lost in a boot that the store has been through only now.
        let lease = Lease::current()?;
        remember(transaction, LOOKED_THROUGH_BOOT, lease.columns().2).map_err(|error| named(path, error))?;
    }
    let version = found.max(schema::VERSION);
    transaction.pragma_update(None, "user_version", version).map_err(|error| named(path, error))
}

fn pragma(connection: &Connection, path: &Path, name: &str) -> Result<i32, StoreError> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| named(path, error))
}

/// An exclusive lock on the root folder, until the file is dropped.
fn lock_root(roots: &Roots) -> Result<File, StoreError> {
    let failed = |action| move |source| StoreError::File { action, path: roots.root.clone(), source };
    let folder = File::open(&roots.root).map_err(failed("open"))?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive).map_err(|errno| failed("lock")(errno.into()))?;
    Ok(folder)
}

fn named(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt { path, source },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Busy { path, seconds: BUSY_TIMEOUT.as_secs() }
        }
        _ => StoreError::Sql { path, source },
    }
}
