#include <string>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "base/text.h"
#include "proto/client_testing.h"
#include "proto/option.h"

// The first byte chooses the decoder; the rest is the payload. What is decoded, encoded again, is the
// payload.

namespace fdbnbd::proto {
namespace {

void check_name(std::string_view name) {
  ASSERT(name.size() <= limits::kMaxStringBytes);
  ASSERT(is_valid_utf8(name) && name.find('\0') == std::string_view::npos);
}

void check_refusal(const Error& error) {
  ASSERT(error.code == Errc::invalid || error.code == Errc::too_large);
  ASSERT(!error.what.empty() && error.what.size() < limits::kMaxStringBytes);
}

void fuzz_header(ByteView payload) {
  if (payload.size() < kOptionHeaderBytes) return;
  const auto header = decode_option_header(payload.first<kOptionHeaderBytes>());
  if (header)
    ASSERT(client::option_header(header->option, header->payload_bytes) ==
           as_text(payload.first(kOptionHeaderBytes)));
}

void fuzz_export_name(ByteView payload) {
  const auto name = decode_export_name(payload);
  if (!name) return check_refusal(name.error());
  check_name(*name);
  ASSERT(*name == as_text(payload));
}

void fuzz_info(ByteView payload) {
  const auto request = decode_info_request(payload);
  if (!request) return check_refusal(request.error());
  check_name(request->export_name);
  std::vector<uint16_t> types;
  for (size_t at = 0; at < request->info_types.size(); at += 2)
    types.push_back(load_be<uint16_t>(&request->info_types[at]));
  for (const uint16_t type : types) ASSERT(request->wants(InfoType{type}));
  ASSERT(client::info_payload(request->export_name, types) == as_text(payload));
}

void fuzz_meta(ByteView payload) {
  const auto request = decode_meta_request(payload);
  if (!request) return check_refusal(request.error());
  check_name(request->export_name);
  ASSERT(request->queries_count <= limits::kMaxMetaQueries);
  std::vector<std::string> queries;
  for (ByteView rest = request->queries; !rest.empty();) {
    const std::string_view query = next_query(rest);
    check_name(query);
    // Whatever is selected could be listed.
    if (query_matches(query, "base:allocation", MetaQueryKind::set))
      ASSERT(query_matches(query, "base:allocation", MetaQueryKind::list));
    queries.emplace_back(query);
  }
  ASSERT(queries.size() == request->queries_count);
  ASSERT(client::meta_payload(request->export_name, queries) == as_text(payload));
}

void fuzz_text(ByteView payload) {
  if (payload.empty()) return;
  const size_t bytes_limit = 3 + std::to_integer<size_t>(payload[0]);
  const std::string_view text = as_text(payload.subspan(1));
  const std::string shown = escaped(text, bytes_limit);
  ASSERT(shown.size() <= bytes_limit && is_valid_utf8(shown));
  for (const char c : shown) ASSERT(static_cast<uint8_t>(c) >= 0x20 && c != 0x7f);
  const std::string_view prefix = utf8_prefix(text, bytes_limit);
  ASSERT(prefix.size() <= bytes_limit && text.starts_with(prefix));
  if (is_valid_utf8(text)) ASSERT(is_valid_utf8(prefix));
}

}  // namespace
}  // namespace fdbnbd::proto

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace fdbnbd::proto;
  if (bytes == 0) return 0;
  const fdbnbd::ByteView payload(reinterpret_cast<const std::byte*>(data) + 1, bytes - 1);
  switch (data[0] % 5) {
    case 0:
      fuzz_header(payload);
      break;
    case 1:
      fuzz_export_name(payload);
      break;
    case 2:
      fuzz_info(payload);
      break;
    case 3:
      fuzz_meta(payload);
      break;
    case 4:
      fuzz_text(payload);
      break;
  }
  return 0;
}
