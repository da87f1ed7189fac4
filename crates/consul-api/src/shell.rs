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

/// The command that deletes a key of Consul, in a message. Consul's program drops one `/` at the beginning of a key.
pub fn kv_delete(key: &str) -> String {
    let slash = if key.starts_with('/') { "/" } else { "" };
    format!("`consul kv delete {}`", operand(&format!("{slash}{key}"), ""))
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
    use std::fs;
    use std::path::Path;

    /// The words that a shell makes of a command in a message.
    fn words(message: &str) -> Vec<String> {
        let command = message.trim_matches('`');
        let script = format!("consul() {{ printf '%s\\0' \"$@\"; }}\n{command}\n");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        let output = String::from_utf8(output.stdout).expect("a text");
        output.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_key_is_one_word_of_the_command_that_deletes_it() {
        for key in [
            "a/b",
            "a b",
            "it's",
            "$(touch f)",
            "`id`",
            "\"q\"",
            "\\",
            "#",
            "~",
            "*",
            "a;b",
            "größe",
            "a\nb",
        ] {
            assert_eq!(words(&kv_delete(key)), ["kv", "delete", key], "{key:?}");
        }
        for key in ["-a", "--", "-recurse", "-it's"] {
            assert_eq!(words(&kv_delete(key)), ["kv", "delete", "--", key], "{key:?}");
        }
        // Consul's program drops the first one.
        for (key, given) in [("/a", "//a"), ("//a", "///a"), ("/", "//")] {
            assert_eq!(words(&kv_delete(key)), ["kv", "delete", given], "{key:?}");
        }
    }

    /// The words of a command in a message for which an operator would have to write something else.
    fn placeholders(line: &str) -> Vec<&str> {
        let comment = line.trim_start().starts_with("//") || line.trim_start().starts_with("--");
        let commands = line.split('`').skip(1).step_by(2).filter(|_| !comment);
        let words = commands.flat_map(|it| it.split(|c: char| !c.is_alphanumeric()));
        let stand_for_something =
            ["NODE", "STORE", "SHARD", "KEY", "ID", "AGENT", "FILE", "NAME", "SESSION"];
        words.filter(|it| stand_for_something.contains(it)).collect()
    }

    /// A message that writes such a command itself would forget the quotes of some key; and a program that knows
    /// the name says it.
    #[test]
    fn no_message_has_a_command_about_a_key_of_its_own() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (mut folders, mut seen) = (vec![crates.join("../src")], 0);
        for each in fs::read_dir(crates).expect("the crates") {
            folders.push(each.expect("a crate").path().join("src"));
        }
        while let Some(folder) = folders.pop() {
            for each in fs::read_dir(folder).expect("sources") {
                let path = each.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let own = "consul kv delete {";
                    let is_own = text.contains(own) && !path.ends_with("consul-api/src/shell.rs");
                    assert!(!is_own, "{}", path.display());
                    for line in text.lines() {
                        assert_eq!(placeholders(line), [""; 0], "{}: {line}", path.display());
                    }
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen} sources");
    }

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
