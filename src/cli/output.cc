#include "cli/output.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/units.h"

namespace fdbnbd::cli {

namespace {

int stdout_errno = 0;

size_t width(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (size_t column = 0; column < columns.size(); ++column) {
    size_t widest = width(columns[column].title);
    for (const auto& row : rows) widest = std::max(widest, width(row[column]));
    widths.push_back(widest);
  }
  std::string text;
  const auto add_cell = [&](size_t column, std::string_view cell) {
    const std::string padding(widths[column] - width(cell), ' ');
    if (column > 0) text += "  ";
    if (columns[column].right_aligned) text += padding;
    text += cell;
    if (!columns[column].right_aligned && column + 1 < columns.size()) text += padding;
  };
  for (size_t column = 0; column < columns.size(); ++column) add_cell(column, columns[column].title);
  text += '\n';
  for (const auto& row : rows) {
    for (size_t column = 0; column < columns.size(); ++column) add_cell(column, row[column]);
    text += '\n';
  }
  return text;
}

std::string format_fields(const std::vector<std::pair<std::string, std::string>>& fields) {
  size_t widest = 0;
  for (const auto& [name, value] : fields) widest = std::max(widest, width(name));
  std::string text;
  for (const auto& [name, value] : fields) {
    text += fmt::format("{}:{}{}\n", name, std::string(widest - width(name) + 1, ' '), value);
  }
  return text;
}

std::string format_size_exactly(uint64_t bytes) {
  return bytes < 1024 ? fmt::format("{} bytes", bytes)
                      : fmt::format("{} ({} bytes)", format_size(bytes), bytes);
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() && stdout_errno == 0)
    stdout_errno = errno;
}

void print_error(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

Result<void> finish_output() {
  if (std::fflush(stdout) != 0 && stdout_errno == 0) stdout_errno = errno;
  if (stdout_errno == 0) return {};
  return fail(stdout_errno == EPIPE ? Errc::peer_gone : Errc::io,
              fmt::format("cannot write to stdout: {}", std::strerror(stdout_errno)));
}

}  // namespace fdbnbd::cli
