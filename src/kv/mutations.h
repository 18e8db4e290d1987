#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// The changes of one transaction, kept until it commits. Used by the embedded engines.

namespace fdbnbd::kv {

// The first key behind `key`.
std::string key_after(std::string_view key);

enum class MutationKind : uint8_t { set, clear, clear_range, bit_or, bit_and };

struct Mutation {
  MutationKind kind;
  // Whether transactions that read the key serializably conflict with this one.
  bool conflicts;
  std::string_view key;    // a range's begin
  std::string_view value;  // a set's value, an operand, a range's end
};

// Mutations in the order they were added, in one buffer.
class MutationList {
 public:
  void add(MutationKind kind, std::string_view key, std::string_view value, bool conflicts);

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  // Valid until the next add().
  Mutation operator[](size_t index) const;
  // Keys and values.
  uint64_t bytes() const { return bytes_.size(); }

 private:
  struct Entry {
    size_t offset;  // of the key in bytes_; the value follows it
    uint32_t key_bytes;
    uint32_t value_bytes;
    MutationKind kind;
    bool conflicts;
  };

  std::string bytes_;
  std::vector<Entry> entries_;
};

// What bit_or or bit_and makes of an old value (nothing: the key is missing). Pure.
std::string apply_bits(MutationKind kind, std::optional<std::string_view> old_value,
                       std::string_view operand);

}  // namespace fdbnbd::kv
