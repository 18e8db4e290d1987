#include "cli/completion.h"

#include <fmt/core.h>

namespace fdbnbd::cli {

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// In single quotes for any of the shells.
std::string quoted(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      result += c;
    }
  }
  return result + "'";
}

std::string verb_names(const std::vector<VerbSummary>& verbs) {
  std::string names;
  for (const auto& verb : verbs) names += (names.empty() ? "" : " ") + verb.name;
  return names;
}

// As a pattern of the shells; one that nothing matches where there is none.
std::string names_where(const std::vector<VerbSummary>& verbs, bool VerbSummary::* property) {
  std::string names;
  for (const auto& verb : verbs) {
    if (verb.*property) names += (names.empty() ? "" : "|") + verb.name;
  }
  return names.empty() ? "-" : names;
}

std::string bash_script(const std::vector<VerbSummary>& verbs, const std::vector<std::string>& global_flags) {
  std::string cases;
  for (const auto& verb : verbs)
    cases += fmt::format("    {}) flags={} below={} ;;\n", verb.name, quoted(joined(verb.flags)),
                         quoted(joined(verb.verbs)));
  return fmt::format(
      R"SHELL(# bash completion for fdb-nbd; see `fdb-nbd completion --help`.
_fdb_nbd() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} verb= second= below= store=() flags= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
      --store|--config) store+=("${{COMP_WORDS[i]}}" "${{COMP_WORDS[i + 1]}}"); ((i++)) ;;
      -*) ;;
      *) if [ -z "$verb" ]; then verb=${{COMP_WORDS[i]}}; else second=${{COMP_WORDS[i]}}; fi ;;
    esac
  done
  case $verb in
    '') mapfile -t COMPREPLY < <(compgen -W "{0} {1}" -- "$word"); return ;;
{2}  esac
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$flags {1}" -- "$word")
    return
  fi
  if [[ -n $below && -z $second ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$below" -- "$word")
    return
  fi
  COMPREPLY=()
  # "@" ends a word of its own for bash.
  local stem=
  if [[ $word == @ ]]; then stem=${{COMP_WORDS[COMP_CWORD - 1]}}@ word=
  elif [[ ${{COMP_WORDS[COMP_CWORD - 1]}} == @ ]]; then stem=${{COMP_WORDS[COMP_CWORD - 2]}}@
  fi
  case $verb in
    {5}) mapfile -t COMPREPLY < <(compgen -W "$("${{COMP_WORDS[0]}}" "${{store[@]}}" ls --names --snapshots 2>/dev/null | grep @)" -- "$stem$word")
      COMPREPLY=("${{COMPREPLY[@]#"$stem"}}") ;;
  esac
  case $verb in
    {3}) mapfile -t COMPREPLY < <(compgen -W "$("${{COMP_WORDS[0]}}" "${{store[@]}}" ls --names 2>/dev/null)" -- "$word") ;;
  esac
  case $verb in
    {4}) mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$word") ;;
  esac
}}
complete -o filenames -F _fdb_nbd fdb-nbd
)SHELL",
      verb_names(verbs), joined(global_flags), cases, names_where(verbs, &VerbSummary::takes_volume),
      names_where(verbs, &VerbSummary::takes_file), names_where(verbs, &VerbSummary::takes_snapshot));
}

std::string zsh_script(const std::vector<VerbSummary>& verbs, const std::vector<std::string>& global_flags) {
  std::string described;
  std::string cases;
  for (const auto& verb : verbs) {
    described += fmt::format("    {}\n", quoted(verb.name + ":" + verb.description));
    cases +=
        fmt::format("    {}) flags=({}) below=({}) ;;\n", verb.name, joined(verb.flags), joined(verb.verbs));
  }
  return fmt::format(R"SHELL(#compdef fdb-nbd
# zsh completion for fdb-nbd; see `fdb-nbd completion --help`.
_fdb_nbd() {{
  local -a verbs flags below store volumes
  local verb second i
  verbs=(
{0}  )
  for ((i = 2; i < CURRENT; i++)); do
    case $words[i] in
      --store|--config) store+=($words[i] $words[i+1]); ((i++)) ;;
      -*) ;;
      *) if [[ -z $verb ]]; then verb=$words[i]; else second=$words[i]; fi ;;
    esac
  done
  if [[ -z $verb ]]; then
    _describe verb verbs
    compadd -- {1}
    return
  fi
  case $verb in
{2}  esac
  if [[ $PREFIX == -* ]]; then
    compadd -- $flags {1}
    return
  fi
  if (( $#below )) && [[ -z $second ]]; then
    compadd -- $below
    return
  fi
  case $verb in
    {3}) volumes=(${{(f)"$($words[1] $store ls --names 2>/dev/null)"}}); compadd -- $volumes ;;
  esac
  case $verb in
    {5}) volumes=(${{(f)"$($words[1] $store ls --names --snapshots 2>/dev/null | grep @)"}}); compadd -- $volumes ;;
  esac
  case $verb in
    {4}) _files ;;
  esac
}}
_fdb_nbd "$@"
)SHELL",
                     described, joined(global_flags), cases, names_where(verbs, &VerbSummary::takes_volume),
                     names_where(verbs, &VerbSummary::takes_file),
                     names_where(verbs, &VerbSummary::takes_snapshot));
}

std::string fish_script(const std::vector<VerbSummary>& verbs, const std::vector<std::string>& global_flags) {
  std::string text =
      "# fish completion for fdb-nbd; see `fdb-nbd completion --help`.\ncomplete -c fdb-nbd -f\n";
  for (const auto& flag : global_flags) {
    if (flag.starts_with("--")) text += fmt::format("complete -c fdb-nbd -l {}\n", flag.substr(2));
  }
  for (const auto& verb : verbs) {
    text += fmt::format("complete -c fdb-nbd -n __fish_use_subcommand -a {} -d {}\n", verb.name,
                        quoted(verb.description));
    const std::string condition = fmt::format("-n '__fish_seen_subcommand_from {}'", verb.name);
    for (const auto& flag : verb.flags) {
      if (flag.starts_with("--"))
        text += fmt::format("complete -c fdb-nbd {} -l {}\n", condition, flag.substr(2));
    }
    if (!verb.verbs.empty())
      text += fmt::format("complete -c fdb-nbd {} -a {}\n", condition, quoted(joined(verb.verbs)));
    if (verb.takes_volume)
      text += fmt::format("complete -c fdb-nbd {} -a '(fdb-nbd ls --names 2>/dev/null)'\n", condition);
    if (verb.takes_snapshot) {
      text += fmt::format(
          "complete -c fdb-nbd {} -a '(fdb-nbd ls --names --snapshots 2>/dev/null | grep @)'\n", condition);
    }
    if (verb.takes_file) text += fmt::format("complete -c fdb-nbd {} -F\n", condition);
  }
  return text;
}

}  // namespace

Result<std::string> completion_script(std::string_view shell, const std::vector<VerbSummary>& verbs,
                                      const std::vector<std::string>& global_flags) {
  if (shell == "bash") return bash_script(verbs, global_flags);
  if (shell == "zsh") return zsh_script(verbs, global_flags);
  if (shell == "fish") return fish_script(verbs, global_flags);
  return fail(Errc::invalid,
              fmt::format("\"{}\" is no shell that is known here: use bash, zsh or fish", shell));
}

}  // namespace fdbnbd::cli
