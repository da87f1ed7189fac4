//! Words of a shell's command, for the cures that a message names.

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
