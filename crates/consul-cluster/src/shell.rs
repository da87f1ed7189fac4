//! The words of lists and of a shell's commands in messages.

/// The first `most` items of a list, and the number of the rest.
pub fn listed<T: ToString>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    (most, between): (usize, &str),
) -> String {
    let items = items.into_iter();
    let rest = items.len().saturating_sub(most);
    let named = Vec::from_iter(items.take(most).map(|item| item.to_string())).join(between);
    match rest {
        0 => named,
        _ => format!("{named}{} and {rest} more", between.trim_matches([',', ' '])),
    }
}

/// A name as a word of a shell's command.
pub fn shell_word(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_.:@%+=,/-".contains(c);
    match !name.is_empty() && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("'{}'", name.replace('\'', r"'\''")),
    }
}

/// A name and the flags after a verb of `consul-ha`, as words of a shell's command. A name that begins with `-`
/// is told from a flag.
pub fn operand(name: &str, flags: &str) -> String {
    operands(&[name], flags)
}

/// As [`operand`], for several names.
pub fn operands(names: &[&str], flags: &str) -> String {
    let all = names.iter().map(|name| shell_word(name)).collect::<Vec<_>>().join(" ");
    let words = match names.iter().any(|name| name.starts_with('-')) {
        true => [flags, "--", &all],
        false => [&all, flags, ""],
    };
    words.join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_counted() {
        for (count, between, expected) in [
            (0, ", ", ""),
            (2, ", ", "0, 1"),
            (3, ", ", "0, 1 and 1 more"),
            (4, "; ", "0; 1; and 2 more"),
        ] {
            assert_eq!(listed(0..count, (2, between)), expected);
        }
    }
}
