//! What a disk in memory holds: live and durable, bytes and names.
//!
//! **Owns**: what a sync makes durable and what the loss of power leaves.
//! **Does not own**: when operations fail (faults), who may call (the disk in memory).
//!
//! Every file keeps its live bytes, its durable bytes and the changes between them; so do the
//! names. A sync applies the changes of one file or one directory to the durable side. The loss of
//! power keeps each change that was not synced, or drops it, or tears it at a sector, and may
//! apply those that it keeps in another order: bytes of a file, and names.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Disks write sectors of 512 bytes or more whole; a smaller unit would tear what no disk tears.
const SECTOR_BYTES: usize = 512;

/// One file, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Directory,
    File(Inode),
}

type Tree = BTreeMap<PathBuf, Entry>;

#[derive(Debug, Clone)]
enum NameChange {
    Create {
        path: PathBuf,
        entry: Entry,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        entry: Entry,
    },
}

#[derive(Debug, Clone)]
enum ByteChange {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen { len: usize },
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<ByteChange>,
    /// What the device cannot read, until it is written again.
    unreadable: Vec<Range<usize>>,
}

/// A whole disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    contents: BTreeMap<Inode, Content>,
    live: Tree,
    durable: Tree,
    pending: Vec<NameChange>,
}

impl Image {
    pub(super) fn create_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        let above: Vec<&Path> = dir.ancestors().collect();
        for path in above.into_iter().rev() {
            if self.is_dir(path) {
                continue;
            }
            if self.live.contains_key(path) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.change(NameChange::Create {
                path: path.to_owned(),
                entry: Entry::Directory,
            });
        }
        Ok(())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_none_or(|dir| self.is_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = Inode(
            self.contents
                .last_key_value()
                .map_or(1, |(last, _)| last.0 + 1),
        );
        self.contents.insert(inode, Content::default());
        self.change(NameChange::Create {
            path: path.to_owned(),
            entry: Entry::File(inode),
        });
        Ok(inode)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Inode> {
        match self.live.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.is_dir(path) || self.live.contains_key(path)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.live.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let Some(entry) = self.live.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if matches!(self.live.get(to), Some(Entry::Directory)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            entry,
        });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if !self.live.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(NameChange::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| change.is_in(dir));
        synced
            .iter()
            .for_each(|change| change.apply(&mut self.durable));
        self.pending = rest;
        Ok(())
    }

    pub(super) fn read(&self, inode: Inode, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let content = self.content(inode);
        let bytes = &content.live;
        let upto = from
            .checked_add(buffer.len())
            .filter(|upto| *upto <= bytes.len());
        let upto = upto.ok_or(io::ErrorKind::UnexpectedEof)?;
        if content
            .unreadable
            .iter()
            .any(|it| overlap(it, &(from..upto)))
        {
            return Err(rustix::io::Errno::IO.into());
        }
        buffer.copy_from_slice(&bytes[from..upto]);
        Ok(())
    }

    pub(super) fn write(&mut self, inode: Inode, bytes: &[u8], offset: u64) {
        let change = ByteChange::Write {
            offset: offset as usize,
            bytes: bytes.to_vec(),
        };
        self.change_bytes(inode, change);
    }

    /// The device cannot read these bytes any more.
    pub(super) fn spoil(&mut self, inode: Inode, range: Range<usize>) {
        self.content_mut(inode).unreadable.push(range);
    }

    pub(super) fn set_len(&mut self, inode: Inode, len: u64) {
        self.change_bytes(inode, ByteChange::SetLen { len: len as usize });
    }

    pub(super) fn len(&self, inode: Inode) -> u64 {
        self.content(inode).live.len() as u64
    }

    pub(super) fn sync(&mut self, inode: Inode) {
        let content = self.content_mut(inode);
        for change in std::mem::take(&mut content.pending) {
            change.apply(&mut content.durable);
        }
    }

    /// A sync that failed: as on Linux the changes count as written from then on, and are not.
    pub(super) fn fail_sync(&mut self, inode: Inode) {
        self.content_mut(inode).pending.clear();
    }

    /// What is there after the power came back.
    pub(super) fn after_power_loss(&self, chance: &mut Chance) -> Self {
        let mut tree = self.durable.clone();
        let mut kept: Vec<&NameChange> = Vec::new();
        for change in &self.pending {
            match chance.below(4) {
                0 => kept.insert(chance.below(kept.len() + 1), change),
                1 => kept.push(change),
                _ => {}
            }
        }
        kept.into_iter().for_each(|change| change.apply(&mut tree));
        let reachable = |path: &Path| {
            let mut above = path.ancestors().skip(1).filter(|dir| !is_root(dir));
            above.all(|dir| tree.get(dir) == Some(&Entry::Directory))
        };
        let survivors: Tree = tree
            .iter()
            .filter(|(path, _)| reachable(path))
            .map(|(path, entry)| (path.clone(), *entry))
            .collect();
        let mut contents = BTreeMap::new();
        for (inode, content) in &self.contents {
            if survivors
                .values()
                .any(|entry| *entry == Entry::File(*inode))
            {
                contents.insert(*inode, content.after_power_loss(chance));
            }
        }
        Self {
            contents,
            live: survivors.clone(),
            durable: survivors,
            pending: Vec::new(),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn change_bytes(&mut self, inode: Inode, change: ByteChange) {
        let content = self.content_mut(inode);
        change.apply(&mut content.live);
        if let ByteChange::Write { offset, bytes } = &change {
            let written = *offset..offset + bytes.len();
            content.unreadable.retain(|it| !overlap(it, &written));
        }
        content.pending.push(change);
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.live.get(path) == Some(&Entry::Directory)
    }

    fn content(&self, inode: Inode) -> &Content {
        self.contents
            .get(&inode)
            .expect("an inode lives as long as its disk")
    }

    fn content_mut(&mut self, inode: Inode) -> &mut Content {
        self.contents
            .get_mut(&inode)
            .expect("an inode lives as long as its disk")
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create { path, .. } | Self::Remove { path } => path.parent() == Some(dir),
            Self::Rename { from, to, .. } => [from, to].iter().any(|p| p.parent() == Some(dir)),
        }
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Create { path, entry } => {
                tree.insert(path.clone(), *entry);
            }
            Self::Remove { path } => tree.retain(|other, _| !other.starts_with(path)),
            Self::Rename { from, to, entry } => {
                let moved: Vec<(PathBuf, Entry)> = tree
                    .iter()
                    .filter_map(|(path, entry)| Some((path.strip_prefix(from).ok()?, *entry)))
                    .filter(|(rest, _)| !rest.as_os_str().is_empty())
                    .map(|(rest, entry)| (to.join(rest), entry))
                    .collect();
                tree.retain(|other, _| !other.starts_with(from));
                tree.insert(to.clone(), *entry);
                tree.extend(moved);
            }
        }
    }
}

impl ByteChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write {
                offset,
                bytes: written,
            } => {
                let upto = offset + written.len();
                if bytes.len() < upto {
                    bytes.resize(upto, 0);
                }
                bytes[*offset..upto].copy_from_slice(written);
            }
            Self::SetLen { len } => bytes.resize(*len, 0),
        }
    }

    /// The part that reached the disk when the power went: sectors before, or behind, a boundary.
    fn torn(&self, chance: &mut Chance) -> Self {
        let Self::Write { offset, bytes } = self else {
            return self.clone();
        };
        let sectors = (offset + bytes.len()).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES;
        let boundary = (offset / SECTOR_BYTES + chance.below(sectors + 1)) * SECTOR_BYTES;
        let cut = boundary.saturating_sub(*offset).min(bytes.len());
        if chance.below(4) > 0 {
            return Self::Write {
                offset: *offset,
                bytes: bytes[..cut].to_vec(),
            };
        }
        Self::Write {
            offset: offset + cut,
            bytes: bytes[cut..].to_vec(),
        }
    }
}

impl Content {
    fn after_power_loss(&self, chance: &mut Chance) -> Self {
        let mut kept: Vec<ByteChange> = Vec::new();
        for change in &self.pending {
            match chance.below(3) {
                0 => {}
                1 => kept.insert(chance.below(kept.len() + 1), change.clone()),
                _ => kept.insert(chance.below(kept.len() + 1), change.torn(chance)),
            }
        }
        let mut durable = self.durable.clone();
        kept.iter().for_each(|change| change.apply(&mut durable));
        Self {
            live: durable.clone(),
            durable,
            pending: Vec::new(),
            unreadable: self.unreadable.clone(),
        }
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none() || path == Path::new(".")
}

/// Chance by seed: splitmix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `limit - 1`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
