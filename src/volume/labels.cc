#include "volume/labels.h"

#include <fmt/core.h>

#include "base/limits.h"
#include "base/text.h"

namespace fdbnbd::volume {

namespace {

bool has_control_characters(std::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return true;
  }
  return false;
}

Task<Result<void>> change_in(kv::Transaction& transaction, RecordReader& records, const std::string& name,
                             const LabelChange& change) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records.find(transaction, name));
  ASSIGN_OR_CO_RETURN(VolumeRecords found, co_await records.load(transaction, id, name));
  Labels& labels = found.volume.labels;
  for (const std::string& key : change.removed) labels.erase(key);
  for (const auto& [key, value] : change.set) labels[key] = value;
  if (labels.size() > limits::kMaxLabels) {
    co_return fail(Errc::too_large, fmt::format("volume \"{}\" would have {} labels: at most {}", name,
                                                labels.size(), limits::kMaxLabels));
  }
  transaction.set(records.keys().volume(id), found.volume.encode());
  co_return Result<void>{};
}

}  // namespace

Result<void> check_label(std::string_view key, std::string_view value) {
  if (key.empty() || key.size() > limits::kMaxLabelKeyBytes || value.size() > limits::kMaxLabelValueBytes) {
    return fail(Errc::invalid,
                fmt::format("a label has a key of 1 to {} bytes and a value of at most {}: \"{}\" does not",
                            limits::kMaxLabelKeyBytes, limits::kMaxLabelValueBytes, key));
  }
  if (!is_valid_utf8(key) || !is_valid_utf8(value)) return fail(Errc::invalid, "a label must be UTF-8");
  if (has_control_characters(key) || has_control_characters(value))
    return fail(Errc::invalid, "a label must not have control characters");
  if (key.find('=') != std::string_view::npos)
    return fail(Errc::invalid, fmt::format("the key of a label must not have a \"=\": \"{}\"", key));
  return {};
}

bool labels_match(const Labels& labels, const std::vector<std::string>& filters) {
  for (const std::string& filter : filters) {
    const size_t equals = filter.find('=');
    const auto found = labels.find(filter.substr(0, equals));
    if (found == labels.end()) return false;
    if (equals != std::string::npos && found->second != filter.substr(equals + 1)) return false;
  }
  return true;
}

Task<Result<void>> change_labels(RecordReader& records, std::string name, LabelChange change) {
  for (const auto& [key, value] : change.set) CO_RETURN_IF_ERROR(check_label(key, value));
  for (const std::string& key : change.removed) CO_RETURN_IF_ERROR(check_label(key, ""));
  auto body = [&](kv::Transaction& transaction) { return change_in(transaction, records, name, change); };
  CO_RETURN_IF_ERROR(co_await records.decide<void>(body));
  co_return co_await records.engine().sync(records.executor());
}

}  // namespace fdbnbd::volume
