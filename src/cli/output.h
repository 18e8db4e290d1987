#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fdbnbd::cli {

struct Column {
  std::string title;
  bool right_aligned = false;
};

// Rows of text in columns, with a line of titles. Widths count characters, not bytes.
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows);

// "Name:  value" lines, values in one column.
std::string format_fields(const std::vector<std::pair<std::string, std::string>>& fields);

// "1.5 GiB (1610612736 bytes)".
std::string format_size_exactly(uint64_t bytes);

// Writes to stdout; failures show in finish_output().
void print(std::string_view text);

// Writes to stderr, where a failure has nowhere to go.
void print_error(std::string_view text);

// Whether all of stdout arrived; Errc::io, or Errc::peer_gone where nobody reads any more.
Result<void> finish_output();

}  // namespace fdbnbd::cli
