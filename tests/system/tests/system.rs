//! The end-to-end tests: the real `hull` on a real kernel, as root, in the lanes that `cargo xtask` prepares.
//!
//! One module per subject. A test whose name contains `fallback` also runs on the oldest kernel.

#![forbid(unsafe_code)]

mod archives;
mod attacks;
mod bandwidth;
mod builtin;
mod cgroups;
mod clients;
mod cni;
mod commit;
mod crashes;
mod crowd;
mod debian;
mod ends;
mod firewall;
mod first_process;
mod identity;
mod images;
mod isolation;
mod killed;
mod life;
mod limits;
mod logs;
mod looking;
mod many;
mod mount_options;
mod mounts;
mod names;
mod neighbours;
mod networks;
mod ports;
mod refusals;
mod runtime_commands;
mod runtime_fields;
mod shared;
mod shortcut;
mod smoke;
mod spaces;
mod systemd;
mod terminals;
mod travels;
mod upkeep;
mod visits;
mod with_systemd;
