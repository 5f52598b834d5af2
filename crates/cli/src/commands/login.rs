//! `hull login` and `logout`: credentials for registries, tried before they are kept, in docker's config.json.

use std::io::{self, BufRead, Read, Write};

use hull_image::registry::{
    Credentials, PushOptions, StoredIn, erase_credentials, find_credentials, store_credentials, try_login,
};
use hull_kernel::terminal::{RawMode, is_terminal};
use hull_oci::DEFAULT_REGISTRY;

use super::{Context, write_stdout};
use crate::args::images::{LoginArgs, LogoutArgs};
use crate::error::Failure;

/// Ctrl-C, ctrl-D, backspace as a raw terminal sends them.
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const BACKSPACES: [u8; 2] = [8, 127];

/// `login`.
///
/// # Errors
/// When the registry refuses, or the credentials cannot be kept.
pub fn login(arguments: LoginArgs, context: &Context) -> Result<u8, Failure> {
    let registry = registry_of(arguments.server.as_deref());
    let path = config_path()?;
    let registries = context.engine()?.configuration()?.registries.clone();
    let options = PushOptions { registries, ..PushOptions::default() };
    if arguments.username.is_none() && arguments.password.is_none() && !arguments.password_stdin {
        let known = find_credentials(&path, &registry).map_err(hull_image::registry::RegistryError::from)?;
        if let Some(known) = known {
            write_stdout(b"Authenticating with existing credentials...\n")?;
            try_login(&registry, known, &options)?;
            write_stdout(b"\nLogin Succeeded\n")?;
            return Ok(0);
        }
    }
    let (user, password) = asked_for(&arguments, &registry)?;
    let credentials = Credentials::Password { user: user.clone(), password: password.clone() };
    try_login(&registry, credentials, &options)?;
    let stored = store_credentials(&path, &registry, &user, &password);
    if let StoredIn::File(path) = stored.map_err(hull_image::registry::RegistryError::from)? {
        eprintln!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            path.display()
        );
    }
    write_stdout(b"Login Succeeded\n")?;
    Ok(0)
}

/// `logout`.
///
/// # Errors
/// When the file or the helper that keeps the credentials cannot be written to.
pub fn logout(arguments: LogoutArgs, _context: &Context) -> Result<u8, Failure> {
    let registry = registry_of(arguments.server.as_deref());
    let erased = erase_credentials(&config_path()?, &registry).map_err(hull_image::registry::RegistryError::from)?;
    let shown = if registry == DEFAULT_REGISTRY { "https://index.docker.io/v1/" } else { &registry };
    write_stdout(
        match erased {
            true => format!("Removing login credentials for {shown}\n"),
            false => format!("Not logged in to {shown}\n"),
        }
        .as_bytes(),
    )?;
    Ok(0)
}

fn config_path() -> Result<std::path::PathBuf, Failure> {
    let missing = || Failure::Arguments("neither DOCKER_CONFIG nor HOME says where credentials are kept".to_owned());
    hull_image::registry::default_config().ok_or_else(missing)
}

/// The registry that an address means: without scheme and path, docker's own when there is none.
fn registry_of(server: Option<&str>) -> String {
    let text = server.unwrap_or_default();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    match text.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

/// User name and password from the flags, stdin or the terminal.
fn asked_for(arguments: &LoginArgs, registry: &str) -> Result<(String, String), Failure> {
    let refused = |text: &str| Failure::Arguments(text.to_owned());
    if arguments.password.is_some() {
        eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if arguments.password_stdin {
            return Err(refused("--password and --password-stdin are mutually exclusive"));
        }
    }
    if arguments.password_stdin {
        let user = arguments.username.clone().filter(|user| !user.is_empty());
        let user = user.ok_or_else(|| refused("Must provide --username with --password-stdin"))?;
        let mut password = String::new();
        io::stdin().read_to_string(&mut password).map_err(Failure::stream("read the password from stdin"))?;
        let password = password.strip_suffix('\n').unwrap_or(&password);
        return checked(user, password.strip_suffix('\r').unwrap_or(password).to_owned());
    }
    let is_interactive = is_terminal(io::stdin());
    if !is_interactive && (arguments.username.is_none() || arguments.password.is_none()) {
        return Err(refused("Cannot perform an interactive login from a non TTY device"));
    }
    let user = match &arguments.username {
        Some(user) => user.clone(),
        None => {
            write_stdout(format!("Log in to {registry}.\nUsername: ").as_bytes())?;
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map_err(Failure::stream("read the user name"))?;
            line.trim().to_owned()
        }
    };
    match &arguments.password {
        Some(password) => checked(user, password.clone()),
        None => checked(user, hidden("Password: ")?),
    }
}

fn checked(user: String, password: String) -> Result<(String, String), Failure> {
    match (user.is_empty(), password.is_empty()) {
        (true, _) => Err(Failure::Arguments("username is empty".to_owned())),
        (_, true) => Err(Failure::Arguments("password is empty".to_owned())),
        _ => Ok((user, password)),
    }
}

/// Asks for a line on the terminal without showing it.
fn hidden(prompt: &str) -> Result<String, Failure> {
    write_stdout(prompt.as_bytes())?;
    let typed = {
        let failed = |error| Failure::Stream { action: "read the password", source: io::Error::other(error) };
        let _raw = RawMode::enter(io::stdin()).map_err(failed)?;
        typed_line(&mut io::stdin().lock())
    };
    let _ = io::stdout().write_all(b"\n");
    let typed = typed.map_err(Failure::stream("read the password"))?;
    String::from_utf8(typed).map_err(|_| Failure::Arguments("the password is not UTF-8".to_owned()))
}

/// The bytes up to the end of the line, edited as a terminal would have.
fn typed_line(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if input.read(&mut byte)? == 0 {
            return Ok(line);
        }
        match byte[0] {
            b'\r' | b'\n' | END => return Ok(line),
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            key if BACKSPACES.contains(&key) => _ = line.pop(),
            key => line.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_registries() {
        for (server, registry) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("http://r.example:5000/v2/"), "r.example:5000"),
            (Some("r.example"), "r.example"),
        ] {
            assert_eq!(registry_of(server), registry);
        }
    }

    #[test]
    fn a_line_is_typed_and_mended() {
        assert_eq!(typed_line(&mut &b"secrex\x7ft\rrest"[..]).expect("a line"), b"secret");
        assert_eq!(typed_line(&mut &b"ab"[..]).expect("the end"), b"ab");
        assert!(typed_line(&mut &b"ab\x03"[..]).is_err());
    }
}
