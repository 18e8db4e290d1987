#include "cli/completion.h"

#include <fmt/core.h>

#include "cli/shell_words.h"

namespace fdbnbd::cli {

namespace {

constexpr std::string_view kBashScript =
    R"SHELL(# bash completion for fdb-nbd; see `fdb-nbd completion --help`.
_fdb_nbd() {
  # What bash cuts at "@", ":" and "=" is one word here; bash replaces the last piece, with the "@" before it.
  local line=${COMP_LINE:0:COMP_POINT} stem= piece words=() i
  for ((i = 0; i <= COMP_CWORD; i++)); do
    if [[ $i == 0 || $line == [[:space:]]* ]]; then
      line=${line#"${line%%[![:space:]]*}"} stem=
      words+=('')
    fi
    piece=${COMP_WORDS[i]}
    if [[ $i == "$COMP_CWORD" ]]; then
      piece=$line
      while [[ $piece == [:=]* ]]; do stem+=${piece:0:1} piece=${piece:1}; done
      stem=${stem%@}
      words[${#words[@]}-1]+=$line
    else
      line=${line#"$piece"} stem+=$piece
      words[${#words[@]}-1]+=$piece
    fi
  done
  mapfile -t COMPREPLY < <("${words[0]/#\~\//$HOME/}" __complete bash "$stem" "${words[@]:1}" 2>/dev/null)
  local how=${COMPREPLY[0]}
  COMPREPLY=("${COMPREPLY[@]:1}")
  [[ $how == *files* ]] && compopt -o default 2>/dev/null
  [[ $how == *on* ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -F _fdb_nbd fdb-nbd
)SHELL";

constexpr std::string_view kZshScript = R"SHELL(#compdef fdb-nbd
# zsh completion for fdb-nbd; see `fdb-nbd completion --help`.
_fdb_nbd() {
  local -a lines texts shown on
  local line
  lines=("${(@f)$(${words[1]/#\~\//$HOME/} __complete words "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
  for line in "${(@)lines[2,-1]}"; do
    texts+=("${line%%$'\t'*}")
    if [[ $line == *$'\t'* ]]; then
      shown+=("${(r:24:)${line%%$'\t'*}} -- ${line#*$'\t'}")
    else
      shown+=("$line")
    fi
  done
  [[ $lines[1] == *on* ]] && on=(-S '')
  if (( $#texts )); then
    if [[ $shown[1] == *' -- '* ]]; then compadd "${(@)on}" -l -d shown -a texts; else compadd "${(@)on}" -a texts; fi
  fi
  if [[ $lines[1] == *files* ]]; then
    compset -P '(rocksdb|fdb|control):'
    _files
  fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _fdb_nbd "$@"
else
  compdef _fdb_nbd fdb-nbd
fi
)SHELL";

constexpr std::string_view kFishScript =
    R"SHELL(# fish completion for fdb-nbd; see `fdb-nbd completion --help`.
function __fdb_nbd_complete
  set -l words (commandline -opc)
  set -l current (commandline -ct)
  set -l lines ($words[1] __complete words $words[2..-1] "$current" 2>/dev/null)
  if string match -q '*files*' -- $lines[1]
    __fish_complete_path "$current"
  end
  if set -q lines[2]
    printf '%s\n' $lines[2..-1]
  end
end
complete -c fdb-nbd -e
complete -c fdb-nbd -f -a '(__fdb_nbd_complete)'
)SHELL";

}  // namespace

Result<std::string> completion_script(std::string_view shell) {
  if (shell == "bash") return std::string(kBashScript);
  if (shell == "zsh") return std::string(kZshScript);
  if (shell == "fish") return std::string(kFishScript);
  return fail(Errc::invalid,
              fmt::format("\"{}\" is no shell that is known here: use bash, zsh or fish", shell));
}

Result<CompletionCall> read_completion_call(const std::vector<std::string>& arguments) {
  const bool is_bash = !arguments.empty() && arguments.front() == "bash";
  const bool is_other = !arguments.empty() && arguments.front() == "words";
  const size_t first_word = is_bash ? 2 : 1;
  if ((!is_bash && !is_other) || arguments.size() <= first_word)
    return fail(Errc::invalid, "this is for the scripts of `fdb-nbd completion`");
  CompletionCall call;
  call.is_bash = is_bash;
  call.words.assign(arguments.begin() + static_cast<std::ptrdiff_t>(first_word), arguments.end());
  if (is_bash) {
    call.stem = read_shell_word(arguments[1]).text;
    call.open_quote = read_shell_word(call.words.back()).open_quote;
    for (std::string& word : call.words) word = read_shell_word(word).text;
  }
  call.current = std::move(call.words.back());
  call.words.pop_back();
  return call;
}

std::string completion_answer(const CompletionCall& call, const Completion& completion) {
  std::string answer =
      fmt::format(":{}{}\n", completion.takes_files ? " files" : "", completion.goes_on ? " on" : "");
  for (const Candidate& candidate : completion.candidates) {
    if (!call.is_bash) {
      answer += candidate.text;
      if (!candidate.description.empty()) answer += '\t' + candidate.description;
    } else if (candidate.text.starts_with(call.current) && candidate.text.starts_with(call.stem)) {
      answer += quote_for_shell(std::string_view(candidate.text).substr(call.stem.size()), call.open_quote);
    } else {
      continue;
    }
    answer += '\n';
  }
  return answer;
}

}  // namespace fdbnbd::cli
