#include "cli/shell_words.h"

namespace fdbnbd::cli {

namespace {

constexpr std::string_view kSpecial = " \t\n\\'\"`$|&;<>()*?[]{}!#~^";
constexpr std::string_view kSpecialInDoubleQuotes = "\\\"`$";

}  // namespace

ShellWord read_shell_word(std::string_view typed) {
  ShellWord word;
  char& quote = word.open_quote;
  for (size_t i = 0; i < typed.size(); ++i) {
    const char c = typed[i];
    const bool is_last = i + 1 == typed.size();
    if (quote != '\0' && c == quote) {
      quote = '\0';
    } else if (quote == '\0' && (c == '\'' || c == '"')) {
      quote = c;
    } else if (c == '\\' && quote == '\0') {
      if (!is_last) word.text += typed[++i];
    } else if (c == '\\' && quote == '"' && !is_last &&
               kSpecialInDoubleQuotes.find(typed[i + 1]) != std::string_view::npos) {
      word.text += typed[++i];
    } else {
      word.text += c;
    }
  }
  return word;
}

std::string quote_for_shell(std::string_view text, char open_quote) {
  if (open_quote == '\'') {
    std::string quoted;
    for (const char c : text) {
      if (c == '\'') {
        quoted += "'\\''";
      } else {
        quoted += c;
      }
    }
    return quoted;
  }
  const std::string_view special = open_quote == '"' ? kSpecialInDoubleQuotes : kSpecial;
  std::string quoted;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) quoted += '\\';
    quoted += c;
  }
  return quoted;
}

}  // namespace fdbnbd::cli
