//! Documents and their code blocks.

use std::fs;

/// A file of the repository.
pub fn read(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", crate::root())).expect(name)
}

/// The code blocks of a document: language and text.
pub fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((language.to_owned(), block.join("\n")));
        }
    }
    found
}
