//! Runs commands under ptrace(2) and notes the first execution of every function.
//!
//! Each function begins with a breakpoint (`int3`) in every process that executes the traced program. The first thread
//! that reaches one stops; its byte is put back in that process, the function is noted, and it goes on. Children are
//! traced from their first instruction; processes that execute another program are let run. A container's first process
//! maps the program anew (`hull_sys::executable`), so system calls are watched as well, for that one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::map::{Map, Section};

/// The breakpoint instruction of x86.
const INT3: u8 = 0xcc;

/// The tracer of one program.
pub struct Tracer {
    /// Device and inode of the program.
    program: (u64, u64),
    map: Map,
    /// The code as it lies in the file, and where it lies in memory.
    code: Vec<u8>,
    begins_at: u64,
    functions: HashSet<u64>,
    executed: Vec<u64>,
    live: HashSet<Pid>,
}

impl Tracer {
    /// Reads the program, which is not position independent.
    pub fn new(program: &Path, map: Map) -> Result<Tracer> {
        let metadata = fs::metadata(program)?;
        let (begins_at, code) = code_of(program)?;
        let functions = map.functions.iter().copied();
        let functions = functions.filter(|at| (begins_at..begins_at + code.len() as u64).contains(at)).collect();
        let program = (metadata.dev(), metadata.ino());
        Ok(Tracer { program, map, code, begins_at, functions, executed: Vec::new(), live: HashSet::new() })
    }

    /// Patterns of the sections that were executed, in the order of their first execution.
    pub fn executed(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let sections = self.executed.iter().filter_map(|address| self.map.section_of(*address));
        sections.map(Section::pattern).filter(|pattern| seen.insert(pattern.clone())).collect()
    }

    /// Runs a command until it ends. What it started and left running stays traced.
    pub fn run(&mut self, argv: &[String]) -> Result<()> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
        let options = Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACESYSGOOD;
        ptrace::seize(pid, options)?;
        kill(pid, Signal::SIGCONT)?;
        self.live.insert(pid);
        let status = self.follow(Some(pid))?.context("its end was not seen")?;
        // The end has been collected; this only forgets the child.
        let _ = child.wait();
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => bail!("{}: {other:?}", argv.join(" ")),
        }
    }

    /// Follows all processes until none is left.
    pub fn wait_for_all(&mut self) -> Result<()> {
        self.follow(None).map(drop)
    }

    /// Follows all processes until `main` has ended, or all have.
    fn follow(&mut self, main: Option<Pid>) -> Result<Option<WaitStatus>> {
        while !self.live.is_empty() {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => return Ok(None),
                other => other?,
            };
            let Some(pid) = status.pid() else { continue };
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.live.remove(&pid);
                    if main == Some(pid) {
                        return Ok(Some(status));
                    }
                }
                WaitStatus::PtraceEvent(_, _, event) => {
                    self.live.insert(pid);
                    if event == Event::PTRACE_EVENT_EXEC as i32 && self.is_program(pid) {
                        self.insert(pid)?;
                    }
                    resume(pid, None)?;
                }
                WaitStatus::PtraceSyscall(_) => {
                    if self.has_mapped_code(pid) {
                        self.insert(pid)?;
                    }
                    resume(pid, None)?;
                }
                WaitStatus::Stopped(_, signal) => {
                    self.live.insert(pid);
                    let is_ours = signal == Signal::SIGTRAP && self.pass(pid)?;
                    resume(pid, Some(signal).filter(|signal| !is_ours && *signal != Signal::SIGSTOP))?;
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn is_program(&self, pid: Pid) -> bool {
        let metadata = fs::metadata(format!("/proc/{pid}/exe"));
        metadata.is_ok_and(|found| (found.dev(), found.ino()) == self.program)
    }

    /// Whether a process returns from an mmap(2) of the code, which is then without breakpoints.
    fn has_mapped_code(&self, pid: Pid) -> bool {
        const PAGE: u64 = 4096;
        let place = self.begins_at & !(PAGE - 1);
        let is_mmap = |registers: &nix::libc::user_regs_struct| registers.orig_rax == nix::libc::SYS_mmap as u64;
        ptrace::getregs(pid).is_ok_and(|registers| is_mmap(&registers) && registers.rax == place)
    }

    /// Puts breakpoints where nothing has been executed yet.
    fn insert(&self, pid: Pid) -> Result<()> {
        let mut code = self.code.clone();
        let executed: HashSet<u64> = self.executed.iter().copied().collect();
        for address in self.functions.difference(&executed) {
            code[(address - self.begins_at) as usize] = INT3;
        }
        memory(pid)?.write_all_at(&code, self.begins_at).context("cannot write the code of a traced process")
    }

    /// Takes a process past a breakpoint of ours; false when there was none.
    fn pass(&mut self, pid: Pid) -> Result<bool> {
        let mut registers = ptrace::getregs(pid)?;
        let address = registers.rip.wrapping_sub(1);
        if !self.functions.contains(&address) {
            return Ok(false);
        }
        if !self.executed.contains(&address) {
            self.executed.push(address);
        }
        let byte = self.code[(address - self.begins_at) as usize];
        memory(pid)?.write_all_at(&[byte], address)?;
        registers.rip = address;
        ptrace::setregs(pid, registers)?;
        Ok(true)
    }
}

/// A process may be gone before it is told to go on.
fn resume(pid: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(pid, signal) {
        Err(Errno::ESRCH) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn memory(pid: Pid) -> Result<File> {
    let path = PathBuf::from(format!("/proc/{pid}/mem"));
    File::options().write(true).open(&path).with_context(|| path.display().to_string())
}

/// The executable segment of a 64-bit ELF program (elf(5)): where it is mapped, and its bytes.
fn code_of(program: &Path) -> Result<(u64, Vec<u8>)> {
    const EXECUTABLE_LOAD: (u64, u64) = (1, 1);
    let bytes = fs::read(program)?;
    let number = |at: usize, width: usize| -> u64 {
        bytes[at..at + width].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let (table, size, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let headers = (0..count).map(|index| table + index * size);
    let header = headers.into_iter().find(|at| (number(*at, 4), number(at + 4, 4) & 1) == EXECUTABLE_LOAD);
    let header = header.context("the program has no code")?;
    let (offset, address, length) = (number(header + 8, 8), number(header + 16, 8), number(header + 32, 8));
    Ok((address, bytes[offset as usize..(offset + length) as usize].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn the_code_of_a_program_holds_its_functions() {
        let own = Path::new("/proc/self/exe");
        let (begins_at, code) = code_of(own).unwrap();
        let function = process::id as *const () as u64;
        assert!((begins_at..begins_at + code.len() as u64).contains(&function), "{function:#x}");
    }
}
