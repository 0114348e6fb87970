//! A page of Markdown in which each drill, or each run, has a section of its own, between two comments.
//! What stands elsewhere on the page is somebody's writing, and stays.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};

/// Puts the section of this name where it was, or at the end. A page that is not there begins with `title`.
pub(crate) fn put(file: &Path, title: &str, name: &str, section: &str) -> Result<()> {
    let page = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(format!("# {title}\n")),
        page => page,
    };
    let page = page.with_context(|| file.display().to_string())?;
    fs::write(file, with(&page, name, section)).with_context(|| file.display().to_string())
}

fn with(page: &str, name: &str, section: &str) -> String {
    let word = name.split_whitespace().next_back().unwrap_or(name);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {word} -->\n"));
    let old = page.find(&begin).zip(page.find(&end)).filter(|(from, to)| from < to);
    let (before, after) = match old {
        Some((from, to)) => (page[..from].to_owned(), &page[to + end.len()..]),
        None => (format!("{}\n\n", page.trim_end()), ""),
    };
    format!("{before}{begin}\n{}\n\n{end}{after}", section.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_the_one_before_and_leaves_the_rest() {
        let page = with("# Drills\n\nWhat they are.\n", "drill kill", "## kill\n");
        let page = with(&page, "drill planned", "## planned\n");
        let again = with(&page, "drill kill", "## kill, anew\n");
        assert_eq!(
            again,
            "# Drills\n\nWhat they are.\n\n<!-- drill kill -->\n\n## kill, anew\n\n<!-- end of kill -->\n\n\
             <!-- drill planned -->\n\n## planned\n\n<!-- end of planned -->\n"
        );
        assert_eq!(with(&again, "drill planned", "## planned"), again);
    }
}
