//! Generated parts of pages that are otherwise written by hand.

/// The page with this text between its comments `<!-- NAME: … -->` and `<!-- end of NAME -->`; the page as it is without
/// these.
pub(super) fn replaced(page: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: "), format!("<!-- end of {name} -->"));
    let part = page.find(&begin).zip(page.find(&end)).and_then(|(begin, end)| {
        let first = begin + page.get(begin..end)?.find('\n')?;
        Some((&page[..first], &page[end..]))
    });
    match part {
        Some((before, after)) => format!("{before}\n\n{}\n\n{after}", text.trim()),
        None => page.to_owned(),
    }
}
