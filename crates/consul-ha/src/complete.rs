//! The completion of command lines, with the names of the nodes.

use super::arguments::CommandLine;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use consul_cli::line::completion_script;

/// The script for a shell. Where a node is named, it asks the cluster, which the environment names.
pub fn script(shell: Shell) -> String {
    let script = completion_script::<CommandLine>(shell);
    let command = CommandLine::command();
    let is_of_node = |it: &&Command| it.get_arguments().any(|it| it.get_id() == "node");
    let verbs: Vec<&str> =
        command.get_subcommands().filter(is_of_node).map(Command::get_name).collect();
    match shell {
        Shell::Bash => format!("{script}\n{}", BASH.replace("VERBS", &verbs.join("|"))),
        Shell::Zsh => {
            // The names go before the script, whose last lines call its function.
            let (head, rest) = script.split_once('\n').unwrap_or((&script, ""));
            let rest =
                rest.replace("The node'\\''s id:_default", "The node'\\''s id:_consul-ha_nodes");
            let rest = rest.replace("that is to lead:_default", "that is to lead:_consul-ha_nodes");
            format!("{head}\n{ZSH}{rest}")
        }
        Shell::Fish => format!("{script}\n{}", FISH.replace("VERBS", &verbs.join(" "))),
        _ => script,
    }
}

/// The names are compared as texts: `compgen -W` would expand them.
const BASH: &str = r#"
_consul-ha_with_nodes() {
    _consul__ha "$@"
    local word name
    [[ $2 == -* ]] && return
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        VERBS)
            COMPREPLY=()
            while IFS= read -r name; do
                [[ $name == "$2"* ]] && COMPREPLY+=("$name")
            done < <(consul-ha names --timeout-ms 2000 2>/dev/null)
            return
            ;;
        esac
    done
}
complete -F _consul-ha_with_nodes -o bashdefault -o default consul-ha
"#;

const ZSH: &str = r#"
_consul-ha_nodes() {
    local -a names
    names=("${(@f)$(consul-ha names --timeout-ms 2000 2>/dev/null)}")
    compadd -a names
}
"#;

const FISH: &str = r#"
complete -c consul-ha -n "__fish_seen_subcommand_from VERBS" -f -a "(consul-ha names --timeout-ms 2000 2>/dev/null)"
"#;
