#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The tuple layer of FoundationDB's client libraries, as far as it occurs in the keys of other programs'
// disks: byte strings, text and integers of up to 64 bits
// (https://github.com/apple/foundationdb/blob/main/design/tuple.md). Pure.

namespace fdbnbd::legacy {

// Each appends one element to a packed tuple.
void append_bytes(std::string& tuple, std::string_view bytes);
void append_text(std::string& tuple, std::string_view utf8);
void append_integer(std::string& tuple, int64_t value);

// Takes a packed tuple apart, element by element; nothing where the next one is of another kind, or none.
class TupleReader {
 public:
  explicit TupleReader(std::string_view packed) : rest_(packed) {}

  std::optional<int64_t> integer();
  // Text, or a byte string.
  std::optional<std::string> string();
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace fdbnbd::legacy
