//! A page of the reference: an introduction, a table of contents, and sections with entries.

use std::fmt::Write;

pub(super) struct Page {
    introduction: String,
    sections: Vec<Section>,
}

struct Section {
    title: String,
    /// The links to its entries.
    entries: Vec<String>,
    body: String,
}

impl Page {
    /// A page that begins with this text, its title included.
    pub fn new(introduction: String) -> Self {
        Page { introduction, sections: Vec::new() }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        let (title, entries, body) = (title.to_owned(), Vec::new(), String::new());
        self.sections.push(Section { title, entries, body });
    }

    /// Begins an entry of the last section, which the table of contents lists as `short`.
    pub fn entry(&mut self, title: &str, short: &str) {
        if let Some(section) = self.sections.last_mut() {
            section.entries.push(link(short, title));
            let _ = write!(section.body, "\n### {title}\n");
        }
    }

    /// Adds a paragraph, a list or a table to the last section or entry.
    pub fn add(&mut self, block: &str) {
        if let Some(section) = self.sections.last_mut() {
            let _ = write!(section.body, "\n{}\n", block.trim_end());
        }
    }

    /// The page in Markdown.
    pub fn finish(self) -> String {
        let mut page = self.introduction;
        page.push_str("\nContents:\n\n");
        for Section { title, entries, .. } in &self.sections {
            let list = entries.join(", ");
            let colon = if list.is_empty() { "" } else { ": " };
            let _ = writeln!(page, "- {}{colon}{list}", link(title, title));
        }
        for Section { title, body, .. } in &self.sections {
            let _ = write!(page, "\n## {title}\n{body}");
        }
        page
    }
}

/// A link to a heading of the same page.
fn link(text: &str, heading: &str) -> String {
    format!("[{text}](#{})", anchor(heading))
}

/// The anchor that Markdown viewers make of a heading.
pub(super) fn anchor(heading: &str) -> String {
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let kept: String = heading.chars().filter(is_kept).collect();
    kept.to_lowercase().replace(' ', "-")
}
