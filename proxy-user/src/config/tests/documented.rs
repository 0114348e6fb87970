//! The guide and the example file say everything that there is to say, and nothing that is not so.

use std::{fs, path::Path};

use proptest::prelude::*;

use crate::{
    cli,
    config::{raw, schema},
};

use super::{folder, parse_in};

const GUIDE: &str = include_str!("../../../../docs/configuration.md");
const EXAMPLE: &str = include_str!("../../../../deploy/switchmaster.toml");

#[test]
fn every_key_is_in_the_guide_and_in_the_example() {
    for key in schema::ALL.iter().flat_map(|table| table.keys) {
        assert!(
            GUIDE.contains(&format!("`{key}`"))
                || GUIDE.contains(&format!("`[[{key}]]`"))
                || GUIDE.contains(&format!("`[{key}]`")),
            "{key} is not in the guide"
        );
        let set = [format!("{key} = "), format!("[{key}]")].iter().any(|form| EXAMPLE.contains(form.as_str()));
        assert!(set, "{key} is not in the example");
    }
}

#[test]
fn the_example_is_valid_as_it_is_and_with_every_comment_taken_away() {
    let folder = folder();
    parse_in(folder.path(), EXAMPLE).unwrap_or_else(|errors| panic!("{errors}"));
    let uncommented: String = (EXAMPLE.lines())
        .map(|line| line.strip_prefix("#").filter(|rest| !rest.starts_with(' ') && !rest.is_empty()).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let uncommented = uncommented.replace("/etc/switchmaster/", "").replace("\"/run/", "\"");
    raw::parse(&uncommented).map_err(drop).expect("it is TOML");
    if let Err(errors) = parse_in(folder.path(), &uncommented) {
        // Alternatives stand side by side in it: they exclude each other, but each is a known key.
        for problem in errors.problems() {
            assert_ne!(problem.what, "unknown key", "{problem}");
        }
    }
}

/// Whoever copies an example out of a page gets a daemon that starts.
#[test]
fn every_toml_block_of_the_pages_passes_the_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let pages = fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let pages: Vec<_> = pages.chain([root.join("README.md")]).collect();
    let mut blocks = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).expect("a page");
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().expect("split gives a first part");
            let folder = folder();
            let file = folder.path().join("switchmaster.toml");
            fs::write(&file, block).expect("a file");
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let exit = cli::check(&file, &mut out, &mut err).expect("it writes to memory");
            let said = String::from_utf8_lossy(&err);
            assert!(exit == cli::Exit::Done && said.is_empty(), "{}: {said}\n{block}", page.display());
            blocks += 1;
        }
    }
    assert!(blocks > 0, "the README has lost its example");
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(text in any::<String>()) {
        let _outcome = parse_in(Path::new("/nowhere"), &text);
    }

    /// Words of our own, in any order, come further than random characters.
    #[test]
    fn no_mixture_of_our_own_words_makes_it_panic(words in proptest::collection::vec(
        prop::sample::select(vec![
            "[[group]]\n", "[[route]]\n", "[admin]\n", "[local]\n", "[group]\n", "[group.check]\n", "[route.park]\n", "name", "listen",
            "sentinels", "nodes", "tls", "sentinel_tls", "check", "park", "group", "target", "max_lag", "allow",
            "password_env", "password_file", " = ", "=", ".", "\n", "\n", "\"", "'", "{", "}", "[", "]", ",", "#",
            "\"mymaster\"", "\"0.0.0.0:6379\"", "\"replica\"", "\"off\"", "\"10s\"", "1", "-1", "99999999999999999999",
            "1.5", "true", "1979-05-27", "\"\"", "ü", "\u{0}", "\r\n",
        ]),
        0..60,
    )) {
        let _outcome = parse_in(Path::new("/nowhere"), &words.concat());
    }
}
