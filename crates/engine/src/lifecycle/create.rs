//! Creating a container: accepted, its image found, its files made, nothing started.
//!
//! ```text
//! check the request          before anything is downloaded, and again with the image's configuration
//! find the image             pulled when missing, as --pull says
//! insert the row             leased: the name is taken, the image cannot be removed any more
//! container folder, snapshot, volumes (made and filled)
//! request.json
//! take the lease off         by the first start, when that follows; from here on the container is whole
//! ```
//!
//! A failure removes what was made, by the same steps as a removal; a kill leaves a row with a dead lease, which the
//! next command removes the same way.

use std::cell::OnceCell;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;

use hull_image::content::ContentError;
use hull_image::{ImageError, Progress};
use hull_network::name_files::{ExtraAddress, NoGateway};
use hull_oci::Platform;
use hull_oci::image::ImageConfig;
use hull_snapshot::{SnapshotId, Snapshotter};
use hull_store::Lease;
use jiff::Timestamp;

use crate::builtin;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::files::FilesError;
use crate::id::ContainerId;
use crate::images::LayerError;
use crate::machine::Machine;
use crate::mount_point::{MountKind, MountPoint};
use crate::names;
use crate::record::{Builtin, ContainerRecord, ImageRef};
use crate::request::{CreateContainer, NamespaceChoice, Ownership, REQUEST_VERSION};
use crate::row::{self, ContainerRow};
use crate::spec;
use crate::volumes::{self, Settled};

/// How often an image is looked for that others remove as soon as it is found.
const IMAGE_ATTEMPTS: u32 = 5;

/// A container that has been created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
}

/// An image as a container needs it.
#[derive(Debug, Clone)]
pub(crate) struct ContainerImage {
    pub reference: ImageRef,
    pub config: ImageConfig,
    /// Lowest first; none for a built-in image, whose files are found at every start.
    pub layers: Vec<SnapshotId>,
    /// Whether it has come for this container.
    pub was_pulled: bool,
    pub warnings: Vec<String>,
}

/// Whether a blob of an image is not there: damage, unless another Hull is just removing the image.
fn lacks_a_blob(error: &EngineError) -> bool {
    match error {
        EngineError::Image(ImageError::Content(ContentError::Missing { .. })) => true,
        EngineError::Layer(LayerError::Open { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

impl Engine {
    /// Creates a container.
    ///
    /// # Errors
    /// Everything that is wrong with the request, the image, the name or the disk; nothing is left behind then.
    pub fn create(&self, request: CreateContainer, progress: &dyn Progress) -> Result<Created, EngineError> {
        let created = self.create_to_start(request, progress)?;
        self.hand_out(&self.record(&created.id)?)?;
        Ok(created)
    }

    /// Creates a container that this process goes on to start: until then it is nobody else's, and gone when this
    /// process ends before.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub fn create_to_start(
        &self,
        mut request: CreateContainer,
        progress: &dyn Progress,
    ) -> Result<Created, EngineError> {
        let machine = Machine::read()?;
        if let Some(name) = &request.name {
            request.name = Some(names::check(name)?.to_owned());
        }
        self.check_networks(&mut request)?;
        self.check_ports(&request)?;
        self.check_bandwidth(&request)?;
        self.check_early(&request, &machine)?;
        let mut attempts = 1..IMAGE_ATTEMPTS;
        let (image, settled, row) = loop {
            match self.claim(&mut request, &machine, progress) {
                // Another Hull has removed it since it was found: it is looked for, and pulled, again.
                Err(EngineError::NoSuchImage { .. }) if attempts.next().is_some() => {}
                Err(error) if lacks_a_blob(&error) && attempts.next().is_some() => {}
                other => break other?,
            }
        };
        if image.was_pulled {
            // Not before the row: from here on the image stays.
            self.relieve_by_itself();
        }
        let (name, warnings) = (row.name.clone(), image.warnings.clone());
        match self.build(&row, request, image, &settled) {
            Ok(()) => Ok(Created { id: row.id, name, warnings }),
            Err(error) => {
                self.discard(&row.id);
                Err(error)
            }
        }
    }

    /// Finds the image and takes the name.
    fn claim(
        &self,
        request: &mut CreateContainer,
        machine: &Machine,
        progress: &dyn Progress,
    ) -> Result<(ContainerImage, Vec<Settled>, ContainerRow), EngineError> {
        let image = self.container_image(request, progress)?;
        spec::check(request, &image.config, machine)?;
        let settled = volumes::settle(request, self.lent_mounts(request)?, &image.config, self.roots())?;
        volumes::check_binds(settled.iter().map(|settled| &settled.point))?;
        let row = self.insert_row(request, &image)?;
        Ok((image, settled, row))
    }

    /// What can be refused without the image.
    fn check_early(&self, request: &CreateContainer, machine: &Machine) -> Result<(), EngineError> {
        let any_command = ImageConfig { cmd: vec!["/".to_owned()], ..ImageConfig::default() };
        spec::check(request, &any_command, machine)?;
        for lender in &request.volumes_from {
            self.row(&lender.container)?;
        }
        for (_, _, choice) in spec::choices(request) {
            if let NamespaceChoice::Container(donor) = choice {
                self.row(donor)?;
            }
        }
        check_names(request)?;
        let Some(name) = &request.name else { return Ok(()) };
        match self.store().read(|db| row::owner_of_name(db, name))? {
            Some(owner) if owner.lease.as_ref().is_some_and(|lease| !lease.is_alive()) => self.recover().map(drop),
            Some(owner) => Err(EngineError::NameTaken { name: name.clone(), owner: owner.id }),
            None => Ok(()),
        }
    }

    /// The bind mounts and volumes of the containers that lend theirs, in the order given.
    fn lent_mounts(&self, request: &CreateContainer) -> Result<Vec<MountPoint>, EngineError> {
        let mut lent = Vec::new();
        for lender in &request.volumes_from {
            let row = self.row(&lender.container)?;
            let mounts = self.record(&row.id)?.mounts.into_iter();
            let lasting = mounts.filter(|point| !matches!(point.kind, MountKind::Tmpfs { .. }));
            lent.extend(lasting.map(|point| MountPoint {
                read_only: point.read_only || lender.read_only,
                // They are its user's.
                ownership: Ownership { chown: false, ..point.ownership },
                ..point
            }));
        }
        Ok(lent)
    }

    /// Inserts the leased row under the request's name or a new one, which is put into the request.
    fn insert_row(&self, request: &mut CreateContainer, image: &ContainerImage) -> Result<ContainerRow, EngineError> {
        let lease = Lease::current()?;
        let mut row = ContainerRow {
            id: ContainerId::generate().map_err(EngineError::Random)?,
            name: String::new(),
            image_id: image.reference.id.as_ref().map(ToString::to_string),
            snapshot_id: None,
            created: Timestamp::now(),
            auto_remove: request.auto_remove,
            lease: Some(lease.clone()),
        };
        for attempt in 0.. {
            row.name = match &request.name {
                Some(name) => name.clone(),
                None => names::generate(attempt).map_err(EngineError::Random)?,
            };
            let owner = self.store().write(|tx| -> Result<_, EngineError> {
                let owner = row::owner_of_name(tx, &row.name)?;
                if owner.is_none() {
                    if !row::has_image(tx, &row, &image.layers)? {
                        return Err(EngineError::NoSuchImage { name: image.reference.name.clone() });
                    }
                    row::insert(tx, &row, &lease)?;
                }
                Ok(owner)
            })?;
            match owner {
                None => break,
                Some(_) if request.name.is_none() => {}
                Some(owner) => return Err(EngineError::NameTaken { name: row.name, owner: owner.id }),
            }
        }
        request.name = Some(row.name.clone());
        Ok(row)
    }

    fn build(
        &self,
        row: &ContainerRow,
        request: CreateContainer,
        image: ContainerImage,
        settled: &[Settled],
    ) -> Result<(), EngineError> {
        let folder = self.roots().container(row.id.as_str());
        DirBuilder::new().mode(0o711).create(&folder).map_err(EngineError::path("make", &folder))?;
        let snapshot = self.snapshots().container(&image.layers)?;
        let result = self.fill(row, request, image, settled, &snapshot);
        if result.is_err() {
            // The row does not know it yet; what cannot be removed now is swept by the next command.
            let _ = self.snapshots().remove(&snapshot);
        }
        result
    }

    fn fill(
        &self,
        row: &ContainerRow,
        request: CreateContainer,
        image: ContainerImage,
        settled: &[Settled],
        snapshot: &SnapshotId,
    ) -> Result<(), EngineError> {
        let record = ContainerRecord {
            version: REQUEST_VERSION,
            id: row.id.clone(),
            name: row.name.clone(),
            created: row.created,
            request,
            image: image.reference,
            image_config: image.config,
            snapshot: snapshot.to_string(),
            mounts: settled.iter().map(|settled| settled.point.clone()).collect(),
        };
        let mounted = OnceCell::new();
        volumes::prepare(self.store(), self.roots(), &row.id, settled, || match mounted.get() {
            Some(mounted) => Ok::<_, EngineError>(OwnedFd::as_fd(mounted)),
            None => {
                // The layers alone: a new container's own layer is empty, and unmounting it would sync its file system.
                let root = self.container_rootfs(&record)?.without_top().mount_detached()?;
                Ok(mounted.get_or_init(|| root).as_fd())
            }
        })?;
        Ok(record.write(&self.roots().container(row.id.as_str()))?)
    }

    /// Gives a container that this process has created to whoever wants it.
    pub(crate) fn hand_out(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        Ok(self.store().write(|tx| row::finish(tx, &record.id, &record.snapshot))?)
    }

    /// The image as a container needs it: built in, here, or pulled.
    fn container_image(
        &self,
        request: &CreateContainer,
        progress: &dyn Progress,
    ) -> Result<ContainerImage, EngineError> {
        let mut reference = ImageRef { name: request.image.clone(), id: None, builtin: None };
        if let Some(image) = Builtin::named(&request.image) {
            reference.builtin = Some(image);
            let config = builtin::config(image);
            return Ok(ContainerImage {
                reference,
                config,
                layers: Vec::new(),
                was_pulled: false,
                warnings: Vec::new(),
            });
        }
        let platform = request.platform.as_deref();
        let (image, was_pulled) = self.find_or_pull(&request.image, platform, request.pull, progress)?;
        let layers = self.ensure_unpacked(&image)?;
        let (wanted, host) = (image.platform(), Platform::host());
        let foreign = !host.matches(&wanted) && platform.is_none();
        let warning = format!(
            "The requested image's platform ({wanted}) does not match the detected host platform ({host}) and no \
             specific platform was requested"
        );
        reference.id = Some(image.id.clone());
        let warnings = if foreign { vec![warning] } else { Vec::new() };
        Ok(ContainerImage { reference, config: image.execution(), layers, was_pulled, warnings })
    }

    /// Removes what a failed creation has made. The creation's own error is what the user needs to hear.
    fn discard(&self, id: &ContainerId) {
        let removed = self.row(id.as_str()).and_then(|row| self.remove_claimed(&row, true));
        if let Err(error) = removed {
            tracing::warn!(%id, %error, "cleaning up after a failed creation");
        }
    }
}

/// A container in another one's network has that one's names and servers, and none of its own; one without a network
/// does not reach the host.
fn check_names(request: &CreateContainer) -> Result<(), EngineError> {
    let to_host = || request.extra_hosts.iter().any(|extra| extra.address == ExtraAddress::HostGateway);
    let refused = |option| Err(EngineError::NamesOfAnother { option });
    match &request.network {
        NamespaceChoice::Container(_) if !request.resolver.is_empty() => refused("dns"),
        NamespaceChoice::Container(_) if !request.extra_hosts.is_empty() => refused("custom host-to-IP mapping"),
        NamespaceChoice::None | NamespaceChoice::Private if to_host() => Err(FilesError::NoGateway(NoGateway).into()),
        _ => Ok(()),
    }
}
