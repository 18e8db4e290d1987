#pragma once

#include <string>
#include <string_view>

// Words as bash takes them, for its completion.

namespace fdbnbd::cli {

struct ShellWord {
  std::string text;        // what the program would be given
  char open_quote = '\0';  // ' or " where the word ends inside of one
};

// What is typed so far of a word. Expansions ($NAME, ~, globs) stay as they are.
ShellWord read_shell_word(std::string_view typed);

// The text as it is typed behind a word that ends with `open_quote`.
std::string quote_for_shell(std::string_view text, char open_quote);

}  // namespace fdbnbd::cli
