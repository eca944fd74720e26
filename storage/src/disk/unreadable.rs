//! Reading around pages that a device cannot read.
//!
//! **Owns**: which errors are such, what stands for the bytes.
//! **Does not own**: what is lost by them: whoever checks checksums finds out.
//!
//! A page that a device cannot read is damage like a page of other bytes: it has a place, the rest
//! of the file is sound, and a copy has what was in it. So its bytes are replaced by some that no
//! checksum holds for, and everything that finds, names and mends damage does the rest.

use std::io;
use std::path::Path;

use super::access::DiskFile;

/// What is read at once around an error: what systems read from a device at once, at least.
const PAGE_BYTES: u64 = 4096;

/// What stands for a byte that cannot be read. Not zero, which is what a file holds behind its end.
const STAND_IN: u8 = 0xde;

/// Fills the buffer from `offset`, as [`DiskFile::read_at`] does. Pages that a device cannot read,
/// asked twice, become bytes for which no checksum holds: where the last of them ends is returned.
///
/// # Errors
/// As [`DiskFile::read_at`]. A device that reads nothing of the file, at its beginning or its end,
/// is an error, too, and no damage: it may be back.
pub(crate) fn read_around(
    file: &dyn DiskFile,
    path: &Path,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<Option<u64>> {
    let failed = match file.read_at(buffer, offset) {
        Err(error) if is_of_device(&error) => error,
        answer => return answer.map(|()| None),
    };
    let (mut first, mut upto) = (None, None);
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let upto_page_end = (PAGE_BYTES - at % PAGE_BYTES).min(rest.len() as u64);
        let (page, behind) = rest.split_at_mut(upto_page_end as usize);
        match file.read_at(page, at) {
            Ok(()) => {}
            Err(error) if is_of_device(&error) => {
                page.fill(STAND_IN);
                first.get_or_insert(at);
                upto = Some(at + upto_page_end);
            }
            Err(error) => return Err(error),
        }
        (at, rest) = (at + upto_page_end, behind);
    }
    let Some(first) = first else {
        return Ok(None);
    };
    let last_byte = file.len()?.saturating_sub(1);
    if [0, last_byte]
        .iter()
        .all(|at| file.read_at(&mut [0], *at).is_err())
    {
        return Err(failed);
    }
    let path = path.display();
    tracing::error!(
        %path, offset = first, error = %failed,
        "the device cannot read this page: it counts as damaged"
    );
    Ok(upto)
}

/// Whether the device, or a checksum of the file system's, is to blame, and not the call.
fn is_of_device(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::IO, Errno::BADMSG, Errno::UCLEAN]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk, OpenMode};

    #[test]
    fn only_the_pages_that_cannot_be_read_are_replaced() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/file"));
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..20_000_u32).map(|at| (at % 200) as u8).collect();
        file.write_at(&bytes, 0).unwrap();
        disk.spoil(path, 9_000..9_001);
        let mut found = vec![0; 15_000];
        assert_eq!(
            file.read_at(&mut found, 100).unwrap_err().raw_os_error(),
            Some(5)
        );
        let upto = read_around(&*file, path, &mut found, 100).unwrap();
        assert_eq!(upto, Some(12_288));
        for (at, byte) in (100..).zip(&found) {
            let expected = match at {
                8192..12288 => STAND_IN,
                at => bytes[at],
            };
            assert_eq!(*byte, expected, "at {at}");
        }
        // Past the end is the caller's mistake, with or without such a page.
        let error = read_around(&*file, path, &mut found, 8_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // Rewritten, it is sound again: a device has pages to spare.
        file.write_at(&bytes[8192..12288], 8192).unwrap();
        let upto = read_around(&*file, path, &mut found, 100).unwrap();
        assert_eq!((upto, &found[..]), (None, &bytes[100..15_100]));
    }

    #[test]
    fn a_device_that_reads_nothing_is_an_error() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/file"));
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 9_000], 0).unwrap();
        disk.spoil(path, 0..100);
        let upto = read_around(&*file, path, &mut [0; 100], 50).unwrap();
        assert_eq!(upto, Some(150), "a first page is a page like others");
        disk.spoil(path, 100..9_000);
        let error = read_around(&*file, path, &mut [0; 100], 5_000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
}
