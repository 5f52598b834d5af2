//! The file that the kernel names as this process' program (`/proc/PID/exe`, proc(5)), changed without an exec.
//!
//! The kernel lets a process name another file (prctl(2) `PR_SET_MM_EXE_FILE`) once no mapping of the old one is left.
//! So every segment of the running program is first replaced by the same bytes through the other file: text and
//! constants by mapping them again, data by a copy. Segments are what the program headers say (elf(5) `PT_LOAD`). The
//! other file is the same inode by another mount, so its bytes are the ones that run; the kernel keeps anybody from
//! writing to them meanwhile (`ETXTBSY`).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{fstat, stat};
use rustix::param::page_size;

use crate::process::single_threaded;

/// A loaded segment: whole pages.
struct Segment {
    start: usize,
    length: usize,
    file_offset: usize,
    protection: libc::c_int,
}

/// What the program headers of this program say.
#[derive(Default)]
struct Image {
    segments: Vec<Segment>,
    /// Start and length of what is read-only after relocation (`PT_GNU_RELRO`).
    read_only_data: Option<(usize, usize)>,
}

/// Makes `/proc/self/exe` name `file`, another way to the program that runs.
///
/// # Errors
/// `EDEADLK` in a process with threads; `EINVAL` when `file` is another file, or when the kernel has no checkpoint/restore support; `EPERM` without
/// `CAP_SYS_RESOURCE`, `CAP_SYS_ADMIN` and `CAP_CHECKPOINT_RESTORE`; mmap(2)'s. The process runs on in any case.
pub fn change_executable(file: BorrowedFd<'_>) -> io::Result<()> {
    let (ours, theirs) = (stat("/proc/self/exe")?, fstat(file)?);
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    single_threaded()?;
    let image = image();
    for segment in &image.segments {
        if segment.protection & libc::PROT_WRITE == 0 { map_again(segment, file)? } else { copy(segment)? }
    }
    if let Some((start, length)) = image.read_only_data.filter(|(_, length)| *length > 0) {
        // SAFETY: the pages are part of a segment of this program that nothing writes to after its start (PT_GNU_RELRO).
        check(unsafe { libc::mprotect(start as *mut libc::c_void, length, libc::PROT_READ) })?;
    }
    name(file)
}

fn image() -> Image {
    let mut image = Image::default();
    // SAFETY: the callback gets the pointer to `image`, which lives until the call returns, and stops at the first
    // object, which is the program itself.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut image).cast()) };
    image
}

unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _size: usize, image: *mut libc::c_void) -> libc::c_int {
    // SAFETY: dl_iterate_phdr(3) gives a valid info, and `image` is the one that `image()` passed and does not touch
    // meanwhile.
    let (info, image) = unsafe { (&*info, &mut *image.cast::<Image>()) };
    // SAFETY: dlpi_phdr points to dlpi_phnum headers in the loaded program.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let page = page_size();
    for header in headers {
        let address = info.dlpi_addr as usize + header.p_vaddr as usize;
        let start = address & !(page - 1);
        match header.p_type {
            libc::PT_LOAD if header.p_filesz > 0 => {
                let end = (address + header.p_filesz as usize).next_multiple_of(page);
                let protection =
                    [(libc::PF_R, libc::PROT_READ), (libc::PF_W, libc::PROT_WRITE), (libc::PF_X, libc::PROT_EXEC)];
                let protection = protection.iter().filter(|(flag, _)| header.p_flags & flag != 0);
                image.segments.push(Segment {
                    start,
                    length: end - start,
                    file_offset: header.p_offset as usize & !(page - 1),
                    protection: protection.fold(0, |all, (_, bit)| all | bit),
                });
            }
            libc::PT_GNU_RELRO => {
                let end = (address + header.p_memsz as usize) & !(page - 1);
                image.read_only_data = Some((start, end.saturating_sub(start)));
            }
            _ => {}
        }
    }
    1
}

/// Maps a segment that is never written from `file`, over itself.
fn map_again(segment: &Segment, file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: the range is a segment of this program without PF_W, and `file` is the same inode (checked by the
    // caller), so every byte, of the code that runs just now too, is the same before and after.
    let mapped = unsafe {
        libc::mmap(
            segment.start as *mut libc::c_void,
            segment.length,
            segment.protection,
            flags,
            file.as_raw_fd(),
            segment.file_offset as libc::off_t,
        )
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a copy of a segment that is written in its place, in memory of no file. All of it is written at once, so that
/// its pages may come at once as well.
fn copy(segment: &Segment) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping wherever the kernel likes.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), segment.length, protection, flags, -1, 0) };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the source is a loaded segment, the target a new mapping of that length. Nothing writes to the segment
    // between the copy and its move: this is the only thread (the caller checked), and neither call touches static data
    // unless it fails.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(segment.start as *const u8, place.cast::<u8>(), segment.length);
        libc::mremap(place, segment.length, segment.length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, segment.start)
    };
    if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    /// start_code to env_end, eleven addresses in the header's order.
    addresses: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

fn name(file: BorrowedFd<'_>) -> io::Result<()> {
    let number = file.as_raw_fd();
    // SAFETY: the arguments are integers.
    let named = check(unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_EXE_FILE, number as libc::c_ulong, 0, 0) });
    match named {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        other => return other,
    }
    // Without CAP_SYS_RESOURCE only the whole map can be set: what it is already, and the file.
    let map = MemoryMap { addresses: addresses()?, auxv: 0, auxv_size: 0, exe_fd: number as u32 };
    let size = size_of::<MemoryMap>();
    // SAFETY: the pointer is to a live map of the size given; the addresses in it are those in force.
    check(unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size, 0) })
}

/// The addresses in force (proc(5), /proc/PID/stat), in the order of `struct prctl_mm_map`.
fn addresses() -> io::Result<[u64; 11]> {
    /// Positions after the name: startcode, endcode, start_data, end_data, start_brk, startstack, arg_start to env_end.
    const FIELDS: [usize; 10] = [23, 24, 42, 43, 44, 25, 45, 46, 47, 48];
    let text = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let number = |position: usize| fields.get(position).and_then(|field| field.parse().ok()).unwrap_or(0);
    let [code, code_end, data, data_end, heap, stack, args, args_end, env, env_end] = FIELDS.map(number);
    // SAFETY: asks for the end of the heap and changes nothing.
    let heap_end = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    Ok([code, code_end, data, data_end, heap, heap_end, stack, args, args_end, env, env_end])
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_program_with_threads_is_left_alone() {
        // The tests' runner has a thread per test, so the change itself is seen in the end-to-end tests only.
        let own = fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(change_executable(own.as_fd()).unwrap_err().raw_os_error(), Some(libc::EDEADLK));
    }

    #[test]
    fn segments_are_whole_pages_that_follow_each_other() {
        let image = image();
        assert!(image.segments.iter().any(|segment| segment.protection == libc::PROT_READ | libc::PROT_EXEC));
        assert!(image.segments.iter().any(|segment| segment.protection == libc::PROT_READ | libc::PROT_WRITE));
        for pair in image.segments.windows(2) {
            assert!(pair[0].start + pair[0].length <= pair[1].start);
        }
        assert!(image.segments.iter().all(|segment| segment.start % page_size() == 0));
        let addresses = addresses().unwrap();
        assert!(addresses.iter().all(|address| *address > 0) && addresses[0] < addresses[1]);
    }
}
