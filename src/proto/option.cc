#include "proto/option.h"

#include <string>

#include "base/assert.h"
#include "base/endian.h"
#include "base/limits.h"
#include "base/text.h"

namespace fdbnbd::proto {

static_assert(kMaxInfoRequestBytes == 4 + limits::kMaxStringBytes + 2 + 2 * 0xffff);

namespace {

// Takes values off the front of a payload. Once something did not fit, nothing does.
class Reader {
 public:
  explicit Reader(ByteView bytes) : rest_(bytes) {}

  template <typename T>
  std::optional<T> number() {
    if (rest_.size() < sizeof(T)) return std::nullopt;
    const T value = load_be<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  std::optional<ByteView> bytes(size_t count) {
    if (rest_.size() < count) return std::nullopt;
    const ByteView taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }

  // A 32-bit length and that many bytes.
  std::optional<std::string_view> counted_string() {
    const auto length = number<uint32_t>();
    if (!length) return std::nullopt;
    const auto text = bytes(*length);
    if (!text) return std::nullopt;
    return as_text(*text);
  }

  ByteView rest() const { return rest_; }

 private:
  ByteView rest_;
};

tl::unexpected<Error> lengths_do_not_fit() {
  return fail(Errc::invalid, "the lengths inside the option do not fit its length");
}

std::string_view namespace_of(std::string_view query) {
  return query.substr(0, query.find(':') + 1);
}

}  // namespace

std::optional<OptionHeader> decode_option_header(std::span<const std::byte, kOptionHeaderBytes> bytes) {
  if (load_be<uint64_t>(&bytes[0]) != kIHaveOpt) return std::nullopt;
  return OptionHeader{.option = Option{load_be<uint32_t>(&bytes[8])},
                      .payload_bytes = load_be<uint32_t>(&bytes[12])};
}

Result<void> check_string(std::string_view text, std::string_view what_it_is) {
  std::string what(what_it_is);
  if (text.size() > limits::kMaxStringBytes)
    return fail(Errc::invalid,
                what + " is longer than " + std::to_string(limits::kMaxStringBytes) + " bytes");
  if (text.find('\0') != std::string_view::npos) return fail(Errc::invalid, what + " contains a NUL byte");
  if (!is_valid_utf8(text)) return fail(Errc::invalid, what + " is not valid UTF-8");
  return {};
}

Result<std::string_view> decode_export_name(ByteView payload) {
  const std::string_view name = as_text(payload);
  RETURN_IF_ERROR(check_string(name, "the export name"));
  return name;
}

bool InfoRequest::wants(InfoType type) const {
  for (size_t at = 0; at < info_types.size(); at += 2)
    if (load_be<uint16_t>(&info_types[at]) == static_cast<uint16_t>(type)) return true;
  return false;
}

Result<InfoRequest> decode_info_request(ByteView payload) {
  Reader reader(payload);
  const auto name = reader.counted_string();
  if (!name) return lengths_do_not_fit();
  const auto types_count = reader.number<uint16_t>();
  if (!types_count || reader.rest().size() != size_t{2} * *types_count) return lengths_do_not_fit();
  RETURN_IF_ERROR(check_string(*name, "the export name"));
  return InfoRequest{.export_name = *name, .info_types = reader.rest()};
}

Result<MetaRequest> decode_meta_request(ByteView payload) {
  Reader reader(payload);
  const auto name = reader.counted_string();
  if (!name) return lengths_do_not_fit();
  const auto queries_count = reader.number<uint32_t>();
  if (!queries_count) return lengths_do_not_fit();
  RETURN_IF_ERROR(check_string(*name, "the export name"));
  const MetaRequest request{.export_name = *name, .queries_count = *queries_count, .queries = reader.rest()};
  // Each query takes four bytes at least, so that a count that cannot be is seen without a walk.
  if (reader.rest().size() / 4 < *queries_count) return lengths_do_not_fit();
  if (*queries_count > limits::kMaxMetaQueries)
    return fail(Errc::too_large, "more than " + std::to_string(limits::kMaxMetaQueries) + " queries");
  for (uint32_t index = 0; index < *queries_count; ++index) {
    const auto query = reader.counted_string();
    if (!query) return lengths_do_not_fit();
    RETURN_IF_ERROR(check_string(*query, "a metadata query"));
    if (namespace_of(*query).size() < 2) return fail(Errc::invalid, "a metadata query without a namespace");
  }
  if (!reader.rest().empty()) return lengths_do_not_fit();
  return request;
}

std::string_view next_query(ByteView& queries) {
  Reader reader(queries);
  const auto query = reader.counted_string();
  ASSERT(query);
  queries = reader.rest();
  return *query;
}

bool query_matches(std::string_view query, std::string_view context_name, MetaQueryKind kind) {
  if (query == context_name) return true;
  if (kind == MetaQueryKind::set) return false;
  return query == namespace_of(context_name) || (query.ends_with('/') && context_name.starts_with(query));
}

void encode_info_export(std::span<std::byte, kInfoExportBytes> out, uint64_t size_bytes, uint16_t flags) {
  store_be(&out[0], static_cast<uint16_t>(InfoType::export_));
  store_be(&out[2], size_bytes);
  store_be(&out[10], flags);
}

void encode_info_block_size(std::span<std::byte, kInfoBlockSizeBytes> out, const BlockSizes& sizes) {
  store_be(&out[0], static_cast<uint16_t>(InfoType::block_size));
  store_be(&out[2], sizes.min_bytes);
  store_be(&out[6], sizes.preferred_bytes);
  store_be(&out[10], sizes.max_payload_bytes);
}

void encode_info_string_header(std::span<std::byte, kInfoStringHeaderBytes> out, InfoType type) {
  store_be(&out[0], static_cast<uint16_t>(type));
}

void encode_server_header(std::span<std::byte, kServerHeaderBytes> out, uint32_t name_bytes) {
  store_be(&out[0], name_bytes);
}

void encode_meta_context_header(std::span<std::byte, kMetaContextHeaderBytes> out, uint32_t context_id) {
  store_be(&out[0], context_id);
}

}  // namespace fdbnbd::proto
