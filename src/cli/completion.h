#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/complete.h"

// Completion in shells: scripts that ask the program at each press of the key, and what it answers.

namespace fdbnbd::cli {

// The first argument with which a script runs the program:
//   __complete words WORD...      zsh and fish: the words as the program would be given them
//   __complete bash STEM WORD...  as they are typed; bash replaces only what stands behind STEM, since it
//   takes
//                                 ":", "=" and "@" for ends of words
// The words are those behind the program's name; the last one, which may be empty, is to be completed.
inline constexpr std::string_view kCompletionArgument = "__complete";

// A completion script for "bash", "zsh" or "fish".
Result<std::string> completion_script(std::string_view shell);

// The words of a script's call as the program would be given them, and those of bash as they are typed.
struct CompletionCall {
  std::vector<std::string> words;  // before the one that is completed
  std::string current;
  bool is_bash = false;
  std::string stem = {};   // of current; bash only
  char open_quote = '\0';  // in which current ends; bash only
};

// `arguments` are those behind kCompletionArgument. Errc::invalid where no script calls so.
Result<CompletionCall> read_completion_call(const std::vector<std::string>& arguments);

// The answer: a line ":" with "files" (names of files are asked for, too) and "on" (no space behind it), then
// each candidate on a line, for bash as it is typed, for the others with its description behind a tab.
std::string completion_answer(const CompletionCall& call, const Completion& completion);

}  // namespace fdbnbd::cli
