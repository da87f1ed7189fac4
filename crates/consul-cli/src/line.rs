//! The command line.

use super::print::{PROGRAM, failed, print, print_json};
use clap::builder::{Resettable, StyledStr};
use clap::error::ContextKind;
use clap::{Arg, Command, CommandFactory, Parser};
use clap_complete::{Shell, generate};

/// The command line of this process; an invalid one ends it.
pub fn parsed<L: Parser + CommandFactory>() -> L {
    PROGRAM.set(L::command().get_name());
    let asked = without_empty_variables(L::command()).try_get_matches();
    let line = asked.and_then(|asked| {
        L::from_arg_matches(&asked).map_err(|error| error.format(&mut L::command()))
    });
    line.unwrap_or_else(|mut error| {
        let plain = without_environment(L::command()).try_get_matches().err();
        if let Some(usage) = plain.as_ref().and_then(|plain| plain.get(ContextKind::Usage)) {
            error.insert(ContextKind::Usage, usage.clone());
        }
        // To print the help is not a failure.
        if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            print_json(&failed("usage", &error.to_string()));
        }
        error.exit()
    })
}

/// The same that reads no environment: a usage would show the flags that it has set as if they had to be given.
fn without_environment(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.env(Resettable::Reset));
    command.mut_subcommands(without_environment)
}

/// The same for which an empty environment variable counts as unset.
fn without_empty_variables(command: Command) -> Command {
    command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        match value.is_some_and(|value| value.is_empty()) {
            true => argument.env(Resettable::Reset),
            false => argument,
        }
    })
}

/// Prints the script that completes command lines.
pub fn completion<L: CommandFactory>(shell: Shell) {
    print(&completion_script::<L>(shell));
}

/// The script that completes command lines.
pub fn completion_script<L: CommandFactory>(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut L::command(), PROGRAM.to_string(), &mut script);
    let script = String::from_utf8_lossy(&script).trim_end().to_owned();
    // clap_complete spells the program's name in two ways, so that no verb has flags: `a__b` and `a__subcmd__b`.
    let name = PROGRAM.to_string();
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

/// The manual page, in the language of man(7), from the rows of `--help`.
pub fn man<L: CommandFactory>() -> String {
    let mut command = L::command();
    command.build();
    let name = command.get_name().to_owned();
    let version = command.get_version().unwrap_or_default();
    let about = text(command.get_about());
    let mut page = format!(
        ".TH {} 1 \"\" \"{name} {version}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR\n",
        name.to_uppercase(),
        escaped(&name),
        escaped(&about),
        escaped(&name),
    );
    page.push_str(".SH COMMANDS\n");
    for verb in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        let usage = verb.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").replace('\n', " ");
        page.push_str(&format!(".SS {}\n{}\n", quoted(&usage), escaped(&text(verb.get_about()))));
        verb.get_arguments().filter(|it| !it.is_global_set()).for_each(|it| option(&mut page, it));
    }
    let mut heading = None;
    page.push_str(".SH OPTIONS\n");
    for argument in command.get_arguments() {
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            page.push_str(&format!(".SS {}\n", quoted(heading.unwrap_or("Others"))));
        }
        option(&mut page, argument);
    }
    let after = text(command.get_after_help());
    if let Some((title, lines)) = after.split_once('\n') {
        let title = title.trim_end_matches(':').to_uppercase();
        let lines: Vec<String> = lines.lines().map(|it| escaped(it.trim())).collect();
        page.push_str(&format!(".SH {}\n.nf\n{}\n.fi\n", quoted(&title), lines.join("\n")));
    }
    page
}

/// An argument of the manual page.
fn option(page: &mut String, argument: &Arg) {
    if argument.is_hide_set() || ["help", "version"].contains(&argument.get_id().as_str()) {
        return;
    }
    let names = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = names.iter().map(|it| format!("\\fI{}\\fR", escaped(it))).collect();
    let long = argument.get_long().map(|it| format!("\\fB{}\\fR", escaped(&format!("--{it}"))));
    let short = argument.get_short().map(|it| format!("\\fB{}\\fR", escaped(&format!("-{it}"))));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let takes = argument.get_action().takes_values().then(|| values.join(" "));
    let head = [flags.join(", "), takes.unwrap_or_default()].join(" ");
    let mut help = text(argument.get_help());
    let defaults = argument.get_default_values().iter().map(|it| it.to_string_lossy());
    let default = defaults.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ");
    if argument.get_action().takes_values() && !default.is_empty() {
        help.push_str(&format!(" [default: {default}]"));
    }
    if let Some(variable) = argument.get_env() {
        help.push_str(&format!(" [env: {}]", variable.to_string_lossy()));
    }
    page.push_str(&format!(".TP\n{}\n{}\n", head.trim(), escaped(&help)));
}

fn text(styled: Option<&StyledStr>) -> String {
    styled.map(StyledStr::to_string).unwrap_or_default()
}

/// A line of text that holds no requests of man(7).
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

/// The argument of a request.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\\(dq"))
}
