//! One holder a data directory.
//!
//! **Owns**: the lock file's name, what a holder writes into it.
//! **Does not own**: how a lock is taken (disk).

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{Disk, DiskLock, LockOutcome};
use crate::error::StoreError;

/// The lock file of a data directory.
pub(crate) const LOCK_FILE: &str = "lock";

/// Takes the directory, which must exist.
///
/// # Errors
/// [`StoreError::Locked`] naming the holder; what the operating system says.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, StoreError> {
    let path = dir.join(LOCK_FILE);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let holder = format!("pid {}, since {}", std::process::id(), utc(since));
    match disk.lock(&path, &holder) {
        Ok(LockOutcome::Acquired(lock)) => Ok(lock),
        Ok(LockOutcome::Held { holder }) if holder.is_empty() => Err(StoreError::Locked {
            path,
            holder: "an unknown process".to_owned(),
        }),
        Ok(LockOutcome::Held { holder }) => Err(StoreError::Locked { path, holder }),
        Err(error) => Err(StoreError::io("lock", &path, error)),
    }
}

/// Seconds since 1970 as RFC 3339. Civil-from-days after Hinnant, "chrono-compatible low-level date
/// algorithms" (2013).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_793_404_799), "2026-10-30T23:59:59Z");
        assert_eq!(utc(4_102_444_800), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn the_second_is_told_who_was_first() {
        let disk = MemoryDisk::new();
        let held = lock(&disk, Path::new("/")).unwrap();
        let refused = lock(&disk, Path::new("/")).err().unwrap().to_string();
        let pid = std::process::id();
        let expected = format!("directory locked: /lock is held by pid {pid}, since 20");
        assert!(refused.starts_with(&expected), "{refused}");
        drop(held);
        assert!(lock(&disk, Path::new("/")).is_ok());
    }
}
