//! The house style as a test: each rule of the style guide that a machine can check is one test.
//!
//! **Owns** the catalogue: the tests below are the rules, by their number in the guide.
//! **Does not own** the checks themselves (one module a theme) nor what clippy and rustfmt check.
//!
//! A finding reads `path:line: rule N: message (actual, limit)`; a test reports all of its own.
//! Every check is a function of a path and a text, and has a planted violation and a clean sample
//! beside it: a suite that cannot fail is no evidence. `DOMICILE_TIDY_ROOT` checks another tree.
//!
//! ```text
//! tree -> source -> lexer                    one file: its tokens, comments and test lines
//!           |- syntax                        functions and paths, read from the tokens
//!           `- rooms sizes imports purity signatures remarks house      the rules
//! ```

mod house;
mod imports;
mod lexer;
mod purity;
mod remarks;
mod rooms;
mod signatures;
mod sizes;
mod source;
mod syntax;
mod tree;

use std::sync::LazyLock;

use source::{Source, Violation};
use tree::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(Tree::load);

/// Fails with every violation that `rule` finds in the files of the tree.
fn check_each(rule: fn(&Source) -> Vec<Violation>) {
    report(TREE.files.iter().flat_map(rule).collect());
}

/// Fails with every violation that `rule` finds in the tree as a whole.
fn check_all(rule: fn(&[Source]) -> Vec<Violation>) {
    report(rule(&TREE.files));
}

fn report(violations: Vec<Violation>) {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} violations of the house style:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// One test a rule: its name, what it is checked on, and the check.
macro_rules! catalogue {
    ($($name:ident: $on:ident($rule:path);)*) => {
        $(#[test] fn $name() { $on($rule); })*
    };
}

catalogue! {
    rule_01_a_crate_opens_with_a_map_of_its_modules: check_each(rooms::crate_map);
    rule_02_a_module_says_what_it_owns_and_does_not_own: check_each(rooms::module_header);
    rule_03_mod_rs_holds_docs_mod_and_pub_use_only: check_each(rooms::mod_file);
    rule_04_what_has_no_noun_has_no_room: check_each(rooms::room_name);
    rule_05_a_file_is_one_thought: check_each(sizes::file_length);
    rule_06_a_function_fits_a_screen: check_each(sizes::function_length);
    rule_06_a_line_fits_a_screen: check_each(sizes::line_width);
    rule_07_manifests_depend_one_way: check_each(imports::manifest);
    rule_07_paths_go_one_way: check_each(imports::paths);
    rule_07_a_dependency_is_named_in_one_module: check_all(imports::named_dependencies);
    rule_10_the_core_has_no_clock_no_disk_and_no_chance: check_each(purity::core);
    rule_13_no_bare_integer_where_a_newtype_exists: check_each(signatures::newtypes);
    rule_17_no_open_mark_without_an_issue: check_each(remarks::open_marks);
    rule_18_a_constant_says_why: check_each(remarks::constants);
    rule_22_every_crate_takes_the_workspace_lints: check_each(house::crate_lints);
    rule_26_the_workspace_lints_are_there: check_all(house::workspace_lints);
    rule_27_dependencies_come_from_the_public_registry: check_each(house::registry);
    rule_27_no_path_of_one_machine: check_each(house::machine_paths);
    rule_30_the_papers_of_the_house_exist: check_all(house::papers);
}

/// A walk that finds nothing would pass every rule above.
#[test]
fn the_walk_finds_the_tree() {
    let paths: Vec<&str> = TREE.files.iter().map(|file| file.path.as_str()).collect();
    for crate_dir in imports::crate_dirs() {
        for name in ["Cargo.toml", "src/lib.rs"] {
            let path = if crate_dir.is_empty() {
                name.into()
            } else {
                format!("{crate_dir}/{name}")
            };
            assert!(
                paths.contains(&path.as_str()),
                "{path} not found among {} files",
                paths.len()
            );
        }
    }
    assert!(
        paths.contains(&"tests/tidy/main.rs"),
        "tests not found among {} files",
        paths.len()
    );
}
