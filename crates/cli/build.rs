//! Tells the linker to put the functions of the frequent commands side by side.
//!
//! `layout/x86_64-LIBC.ld` adds to the linker's own script one section in front of the others, with the functions that
//! these commands execute (`cargo xtask layout` makes it anew). A program maps what it executes in pieces of 64 kB:
//! without this, most of what a runtime has in memory are neighbours of functions that it never calls. A name in the
//! list that no longer exists does no harm. Linkers that were chosen by the user may not know the script, so they do not
//! get it.
//!
//! `HULL_LINK_MAP` names a file for the linker's map, which is what the list is made from.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=layout");
    println!("cargo::rerun-if-env-changed=HULL_LINK_MAP");
    if let Ok(map) = env::var("HULL_LINK_MAP") {
        println!("cargo::rustc-link-arg-bins=-Wl,-Map={map}");
    }
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let is_known_linker = env::var_os("RUSTC_LINKER").is_none()
        && !env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("-fuse-ld"));
    let libc = match env::var("CARGO_CFG_TARGET_ENV").as_deref() {
        Ok("gnu") => "glibc",
        Ok("musl") => "musl",
        _ => return,
    };
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is_known_linker {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,--script={folder}/layout/x86_64-{libc}.ld");
    }
}
