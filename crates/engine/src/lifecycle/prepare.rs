//! Everything that a start needs to know, found out before anything is made.
//!
//! The spec is derived afresh at every start: the user is looked up in the container's present files, the host's
//! resolver is copied as it is now, `container:ID` is that container's present process. What a start makes on the way
//! are the name files and a missing working directory; both do no harm when the start then fails.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::inside;
use hull_network::dns::registration::{Order, Settings};
use hull_network::resolv_conf::{Form, ResolvConf};
use hull_network::{Endpoint, Network, NetworkMode, NetworkPlan};
use hull_oci::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use hull_snapshot::Rootfs;
use hull_store::Lease;
use hull_supervisor::client::Client;
use rustix::fs::Mode;

use crate::builtin;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::files::{self, NameFiles};
use crate::id::ContainerId;
use crate::identity;
use crate::lifecycle::state::{Action, Phase, Refusal};
use crate::lifecycle::stop::DEFAULT_STOP_TIMEOUT_SECONDS;
use crate::logs::LOG_FILE;
use crate::machine::Machine;
use crate::mount_point::MountPoint;
use crate::networks::NetworkError;
use crate::publish;
use crate::record::{Builtin, ContainerRecord};
use crate::request::{CreateContainer, NamespaceChoice};
use crate::row::ContainerRow;
use crate::signal::Signal;
use crate::spec::{self, Effective, Resolved};
use crate::volumes;

/// Largest log file, bytes.
const LOG_FILE_BYTES: u64 = 20_000_000;
/// How many log files are kept, the newest included.
const LOG_FILES: u32 = 5;
/// How many containers the owner of a namespace is looked for through, one sharing the next one's.
pub(crate) const MAXIMUM_LENDERS: usize = 16;

/// What one start will do.
#[derive(Debug)]
pub struct StartPlan {
    /// config.json of this start. `root.path` is informative: the root is mounted from `rootfs`.
    pub spec: Spec,
    /// The root file system.
    pub rootfs: Rootfs,
    /// The same, mounted already and detached; with a user namespace only to be looked at.
    pub root: OwnedFd,
    /// The container as it was created.
    pub record: ContainerRecord,
    /// Whether Hull's init is PID 1.
    pub init: bool,
    /// The cgroup, from each hierarchy's root.
    pub cgroup_path: String,
    /// Where the output goes.
    pub log: LogPlan,
    /// `<state>/<id>`.
    pub state_dir: PathBuf,
    /// Signal that asks the container to stop.
    pub stop_signal: Signal,
    /// Seconds before SIGKILL follows; -1 for never.
    pub stop_timeout_seconds: i64,
    /// What the kernel's network gets.
    pub network: NetworkPlan,
    /// How it asks for names, if Hull's resolver answers.
    pub names: Option<Order>,
    /// The OCI runtime to use instead of the built-in one.
    pub runtime: Option<PathBuf>,
}

/// Where the output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlan {
    /// The newest file.
    pub path: PathBuf,
    /// Largest size of one file.
    pub max_file_bytes: u64,
    /// How many files are kept.
    pub max_files: u32,
}

/// The containers whose namespaces are joined, as they run now.
#[derive(Debug, Default)]
struct Donors {
    namespaces: BTreeMap<LinuxNamespaceType, PathBuf>,
    network: Option<ContainerRecord>,
    shm: Option<PathBuf>,
    id_map: Option<LinuxIdMapping>,
}

impl Engine {
    /// Finds out everything for a start. The caller holds the container's lock.
    ///
    /// # Errors
    /// Why it cannot start: it is being removed, its user does not exist, a bind source is missing, ...
    pub fn prepare_start(&self, id: &ContainerId) -> Result<StartPlan, EngineError> {
        let row = self.row(id.as_str())?;
        self.refuse_leased(&row)?;
        let record = self.record(id)?;
        if row.lease.is_some() {
            self.hand_out(&record)?;
        }
        let request = &record.request;
        let effective = Effective::merge(request, &record.image_config);
        let rootfs = self.container_rootfs(&record)?.volatile(request.auto_remove);
        let donors = self.donors(id, request)?;
        volumes::check_binds(&record.mounts)?;

        let root = mount(&rootfs, donors.id_map)?;
        let identity = identity::look_up(root.as_fd(), &effective.user, &request.group_add)?;
        if donors.id_map.is_none() {
            make_workdir(root.as_fd(), &effective)?;
        }
        volumes::give(&record.mounts, &identity, donors.id_map)?;
        let mounts = self.all_mounts(&record, root.as_fd())?;

        let folder = self.roots().container(id.as_str());
        let resolved = Resolved {
            id: id.clone(),
            rootfs: self.state_dir(id).join("rootfs"),
            hostname: self.hostname(id, request, &donors),
            identity,
            namespaces: donors.namespaces.clone(),
            id_map: donors.id_map,
            mounts,
            name_files: folder.clone(),
            shm_source: donors.shm.clone(),
            cgroup_path: self.cgroup_path(id),
            devices: spec::gather_devices(request)?,
            machine: Machine::read()?,
        };
        let spec = spec::derive(request, &record.image_config, &resolved)?;
        let network = self.give_places(&record)?;
        let owner = resolved.id_map.map_or(0, |map| map.host_id);
        let (places, brought) = (&network.attachments, network.cni.is_some());
        self.write_name_files(&record, &resolved.hostname, owner, &donors, places, brought)?;
        let names = self.name_order(&record, &network.attachments)?;
        Ok(StartPlan {
            spec,
            network,
            names,
            rootfs,
            root,
            init: request.init,
            cgroup_path: resolved.cgroup_path,
            log: LogPlan { path: folder.join(LOG_FILE), max_file_bytes: LOG_FILE_BYTES, max_files: LOG_FILES },
            state_dir: self.state_dir(id),
            stop_signal: spec::stop_signal(&effective)?,
            stop_timeout_seconds: request.stop_timeout_seconds.unwrap_or(DEFAULT_STOP_TIMEOUT_SECONDS),
            runtime: request.runtime.clone().map(PathBuf::from),
            record,
        })
    }

    /// The container's places in its networks, with its ports published.
    fn give_places(&self, record: &ContainerRecord) -> Result<NetworkPlan, EngineError> {
        // What a run that nobody cleaned up has left, before its places are given up.
        self.release_shapers(&record.id)?;
        if !record.request.bandwidth.is_unlimited() {
            self.sweep_shapers()?;
        }
        let give = || {
            let mut network = self.plan_network(record)?;
            self.publish_at_start(record, &network)?;
            if !publish::port_requests(record).is_empty() {
                network.shortcut = self.shortcut(record, &network.attachments)?;
            }
            Ok::<_, EngineError>(network)
        };
        let taken = match give() {
            Err(error) if error.is_taken() => error,
            result => return result,
        };
        // By a container that runs, or by a run whose end nobody has seen.
        match self.recover() {
            Ok(_) => give(),
            Err(error) => {
                tracing::warn!(%error, "sweeping what may have it");
                Err(taken)
            }
        }
    }

    /// A container that somebody creates or removes is not started; what a dead command left is swept.
    fn refuse_leased(&self, row: &ContainerRow) -> Result<(), EngineError> {
        let Some(lease) = &row.lease else { return Ok(()) };
        if !lease.is_alive() {
            self.recover()?;
            return Err(EngineError::NoSuchContainer { name: row.name.clone() });
        }
        if *lease == Lease::current()? && row.snapshot_id.is_none() {
            return Ok(());
        }
        let phase = if row.snapshot_id.is_some() { Phase::Removing } else { Phase::Creating };
        Err(EngineError::Refused { name: row.name.clone(), refusal: Refusal { action: Action::Start, phase } })
    }

    fn donors(&self, id: &ContainerId, request: &CreateContainer) -> Result<Donors, EngineError> {
        let mut donors = Donors::default();
        if request.userns == NamespaceChoice::Private {
            donors.id_map = Some(spec::id_map(id));
        }
        if request.ipc == NamespaceChoice::Host {
            donors.shm = Some(PathBuf::from("/dev/shm")).filter(|shm| shm.is_dir());
        }
        for (type_, option, choice) in spec::choices(request) {
            let NamespaceChoice::Container(name) = choice else { continue };
            let row = self.row(name)?;
            let state = if row.id == *id { None } else { Some(self.state_of(&row)?) };
            let not_running = || EngineError::DonorNotRunning { option, name: name.clone() };
            let pid = state.and_then(|state| state.pid()).ok_or_else(not_running)?;
            donors.namespaces.insert(type_, PathBuf::from(format!("/proc/{pid}/ns/{}", proc_name(type_))));
            match type_ {
                LinuxNamespaceType::Network => {
                    let lender = self.record(&row.id)?;
                    self.note_sharer(id, &lender)?;
                    donors.network = Some(lender);
                }
                LinuxNamespaceType::Ipc => donors.shm = Some(PathBuf::from(format!("/proc/{pid}/root/dev/shm"))),
                LinuxNamespaceType::User => donors.id_map = Some(self.id_map_of(&row, name)?),
                _ => {}
            }
        }
        Ok(donors)
    }

    /// The ids of a container's user namespace, its own or the one that it shares; none without one.
    pub(crate) fn id_map(&self, record: &ContainerRecord) -> Result<Option<LinuxIdMapping>, EngineError> {
        match &record.request.userns {
            NamespaceChoice::Private => Ok(Some(spec::id_map(&record.id))),
            NamespaceChoice::Container(name) => self.id_map_of(&self.row(name)?, name).map(Some),
            _ => Ok(None),
        }
    }

    fn id_map_of(&self, row: &ContainerRow, name: &str) -> Result<LinuxIdMapping, EngineError> {
        let mut lender = row.id.clone();
        // Whoever shares a namespace may share one that is itself shared; a circle of them has none at all.
        for _ in 0..MAXIMUM_LENDERS {
            match self.record(&lender)?.request.userns {
                NamespaceChoice::Private => return Ok(spec::id_map(&lender)),
                NamespaceChoice::Container(next) => lender = self.row(&next)?.id,
                _ => break,
            }
        }
        Err(EngineError::NoUserNamespace { name: name.to_owned() })
    }

    /// The mounts of the container, those that its image needs before those that were asked for.
    fn all_mounts(&self, record: &ContainerRecord, root: BorrowedFd<'_>) -> Result<Vec<MountPoint>, EngineError> {
        let mut mounts = match record.image.builtin {
            Some(Builtin::Host) => builtin::host_mounts(self.roots(), root)?,
            _ => Vec::new(),
        };
        mounts.retain(|hidden| !record.mounts.iter().any(|asked| asked.target == hidden.target));
        mounts.extend(record.mounts.iter().cloned());
        Ok(mounts)
    }

    /// The name inside: the one asked for, the host's where the host's is seen, the network donor's, or the id.
    pub fn hostname_of(&self, record: &ContainerRecord) -> String {
        let network = match &record.request.network {
            NamespaceChoice::Container(name) => self.row(name).and_then(|row| self.record(&row.id)).ok(),
            _ => None,
        };
        let donors = Donors { network, ..Donors::default() };
        self.hostname(&record.id, &record.request, &donors)
    }

    fn hostname(&self, id: &ContainerId, request: &CreateContainer, donors: &Donors) -> String {
        if let Some(hostname) = &request.hostname {
            return hostname.clone();
        }
        if request.uts == NamespaceChoice::Host || request.network == NamespaceChoice::Host {
            return rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        match &donors.network {
            Some(donor) if donor.id != *id => self.hostname(&donor.id, &donor.request, &Donors::default()),
            _ => id.short().to_owned(),
        }
    }

    /// Writes the name files of a running container whose places have changed.
    pub(crate) fn rewrite_name_files(
        &self,
        record: &ContainerRecord,
        places: &[(Network, Endpoint)],
    ) -> Result<(), EngineError> {
        let owner = self.id_map(record)?.map_or(0, |map| map.host_id);
        let brought = self.cni_places(&record.id)?;
        let hostname = self.hostname_of(record);
        self.write_name_files(record, &hostname, owner, &Donors::default(), places, !brought.is_empty())?;
        let names = self.cni_names(record);
        for place in brought {
            names.add(&place.outcome()).map_err(NetworkError::from)?;
        }
        Ok(())
    }

    /// Writes the name files; where there are networks that are `brought`, what plugins tell is added afterwards.
    fn write_name_files(
        &self,
        record: &ContainerRecord,
        hostname: &str,
        owner: u32,
        donors: &Donors,
        places: &[(Network, Endpoint)],
        brought: bool,
    ) -> Result<(), EngineError> {
        let own = places.iter().flat_map(|(_, endpoint)| [endpoint.ipv4, endpoint.ipv6]).flatten();
        let addresses: Vec<_> = own.map(|own| own.address).collect();
        let shared = donors.network.as_ref().map(|donor| self.roots().container(donor.id.as_str()));
        let files = NameFiles {
            network: &network_mode(&record.request.network, donors),
            hostname,
            domainname: record.request.domainname.as_deref(),
            addresses: Some(&addresses[..]).filter(|own| !own.is_empty() || !brought),
            extra_hosts: &record.request.extra_hosts,
            gateways: &gateways(record, places),
            wanted: &record.request.resolver,
            form: form(record, places)?,
            shared_with: shared.as_deref(),
            owner,
        };
        Ok(files.write(&self.roots().container(record.id.as_str()))?)
    }

    /// Gives a running container that has come into other networks a way to the resolver, before its resolv.conf says so.
    /// One that it has already it keeps.
    pub(crate) fn give_names(
        &self,
        record: &ContainerRecord,
        pid: i32,
        places: &[(Network, Endpoint)],
    ) -> Result<(), EngineError> {
        let state = self.state_dir(&record.id);
        if form(record, places)? != Form::Resolver {
            return Ok(());
        }
        if Settings::read(&state)?.is_none()
            && let Some(order) = self.name_order(record, places)?
        {
            order.begin(pid)?;
        }
        // Without a supervisor, the next one finds them by what has been written down.
        if let Err(error) = Client::connect(&state).and_then(|mut client| client.find_names()) {
            tracing::debug!(%error, "telling the supervisor of names");
        }
        Ok(())
    }

    /// Writes down what the resolver has to know of a container that it answers. Its own servers are asked directly where
    /// nothing else needs the resolver.
    fn name_order(
        &self,
        record: &ContainerRecord,
        places: &[(Network, Endpoint)],
    ) -> Result<Option<Order>, EngineError> {
        let named = places.iter().find(|(network, _)| !network.is_default());
        let resolved = form(record, places)? == Form::Resolver;
        let Some((network, _)) = named.or(places.first()).filter(|_| resolved) else { return Ok(None) };
        let wanted = &record.request.resolver;
        let asked = ResolvConf { options: wanted.options.clone(), ..ResolvConf::default() };
        let settings = Settings {
            network: network.id.clone(),
            servers: wanted.servers.clone(),
            plain_names_stay: asked.ndots().is_some_and(|dots| dots > 0),
        };
        settings.write(&self.state_dir(&record.id))?;
        Ok(Some(Order { roots: self.roots().clone(), container: record.id.to_string() }))
    }
}

/// The addresses at which a container reaches the host: its first network's gateways, or the host's own loopback.
fn gateways(record: &ContainerRecord, places: &[(Network, Endpoint)]) -> Vec<IpAddr> {
    match places.first() {
        Some((network, _)) => network.subnets.iter().map(|subnet| subnet.gateway).collect(),
        None if record.request.network == NamespaceChoice::Host => vec![Ipv4Addr::LOCALHOST.into()],
        None => Vec::new(),
    }
}

/// How a container in these networks reaches name servers. In the default network it asks the host's by itself, unless
/// the host alone reaches them.
fn form(record: &ContainerRecord, places: &[(Network, Endpoint)]) -> Result<Form, EngineError> {
    let ipv6 = places.iter().any(|(_, endpoint)| endpoint.ipv6.is_some());
    let named = places.iter().any(|(network, _)| !network.is_default());
    let own_servers = !record.request.resolver.servers.is_empty();
    match places.is_empty() {
        true => Ok(Form::Host),
        false if named => Ok(Form::Resolver),
        false if !own_servers && files::host_resolv_conf()?.is_of_host_alone(ipv6) => Ok(Form::Resolver),
        false => Ok(Form::Network { ipv6 }),
    }
}

fn network_mode(choice: &NamespaceChoice, donors: &Donors) -> NetworkMode {
    match choice {
        NamespaceChoice::Default | NamespaceChoice::Private | NamespaceChoice::Network(_) => NetworkMode::Private,
        NamespaceChoice::Path(path) => NetworkMode::Path(path.clone()),
        NamespaceChoice::None => NetworkMode::None,
        NamespaceChoice::Host => NetworkMode::Host,
        NamespaceChoice::Container(name) => {
            NetworkMode::Container(donors.network.as_ref().map_or_else(|| name.clone(), |donor| donor.id.to_string()))
        }
    }
}

/// Name of a namespace's file in /proc/PID/ns.
fn proc_name(type_: LinuxNamespaceType) -> &'static str {
    match type_ {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Time => "time",
    }
}

/// Mounts the root file system, detached; with a user namespace only to be looked at.
fn mount(rootfs: &Rootfs, id_map: Option<LinuxIdMapping>) -> Result<OwnedFd, EngineError> {
    Ok(match id_map {
        None => rootfs.mount_detached()?,
        // The first mount that writes has to be the shifted one, and a missing working directory is made inside.
        Some(_) => rootfs.clone().as_view().mount_detached()?,
    })
}

/// Makes a missing working directory in the container's own layer, as docker does; the runtime goes there later.
fn make_workdir(root: BorrowedFd<'_>, effective: &Effective) -> Result<(), EngineError> {
    let path = spec::clean_path(Path::new(&effective.working_dir));
    if inside::exists(root, &path) {
        return Ok(());
    }
    inside::make_directory(root, &path, Mode::from_raw_mode(0o755))?;
    Ok(())
}
