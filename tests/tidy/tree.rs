//! The files of the project, read once.
//!
//! **Owns** which files are looked at: every UTF-8 file of the tree but build output, vendored
//! code and hidden folders other than the project's own.
//! **Does not own** what a file means: `source`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::source::Source;

/// What is not ours: its style is the style it came with.
const VENDORED: &str = "storage/sled";

/// Hidden folders that hold project files; every other one belongs to a tool.
const HIDDEN_DIRS: [&str; 4] = [".cargo", ".ci", ".config", ".github"];

/// Larger files are data; the largest text by far, Cargo.lock, is under 100 KiB. Doubled: slower.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// The folders of this project nest at most 6 deep; beyond 32 something links to itself.
const DEPTH_MAX: usize = 32;

/// All the text files of the project, by path.
pub(crate) struct Tree {
    pub(crate) files: Vec<Source>,
}

impl Tree {
    /// Reads the tree at `DOMICILE_TIDY_ROOT`, or else around the package of this test.
    pub(crate) fn load() -> Tree {
        let root = std::env::var_os("DOMICILE_TIDY_ROOT")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let mut files = Vec::new();
        walk(&root, &root, 0, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Tree { files }
    }
}

fn walk(root: &Path, dir: &Path, depth: usize, files: &mut Vec<Source>) {
    assert!(
        depth < DEPTH_MAX,
        "{} is {depth} folders deep, limit {DEPTH_MAX}",
        dir.display()
    );
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|e| panic!("read {}: {e}", dir.display()));
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let hidden = name.starts_with('.') && !HIDDEN_DIRS.contains(&&*name);
            let foreign = path == root.join(VENDORED);
            if !hidden && !foreign && name != "target" {
                walk(root, &path, depth + 1, files);
            }
        } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX {
            // Not UTF-8 means golden bytes or a picture: no rule reads those.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let path = path
                .strip_prefix(root)
                .expect("the walk stays below its root");
            files.push(Source::new(
                &path.to_string_lossy().replace('\\', "/"),
                &text,
            ));
        }
    }
}
