#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "proto/constants.h"

// Options: their header, their payloads, and the payloads of their replies (NBD proto, "Option types",
// "Option reply types"). Views that a decoded value holds point into the bytes that were decoded.

namespace fdbnbd::proto {

inline constexpr size_t kOptionHeaderBytes = 8 + 4 + 4;

struct OptionHeader {
  Option option{};
  uint32_t payload_bytes = 0;  // as the client claims
};

// nullopt: wrong magic; nothing that follows can be understood.
std::optional<OptionHeader> decode_option_header(std::span<const std::byte, kOptionHeaderBytes> bytes);

// Checks a string of the protocol: at most limits::kMaxStringBytes, UTF-8, no NUL. `what_it_is` begins the
// message of the error (Errc::invalid).
Result<void> check_string(std::string_view text, std::string_view what_it_is);

// NBD_OPT_EXPORT_NAME: all of the payload is the name.
Result<std::string_view> decode_export_name(ByteView payload);

// NBD_OPT_INFO and NBD_OPT_GO.
struct InfoRequest {
  std::string_view export_name;
  ByteView info_types;  // 16-bit numbers as on the wire

  bool wants(InfoType type) const;
};
// No longer payload than this can be valid.
inline constexpr uint32_t kMaxInfoRequestBytes = 4 + 4096 + 2 + 2 * 0xffff;
// Errc::invalid: the lengths do not fit exactly, or the name is no valid string.
Result<InfoRequest> decode_info_request(ByteView payload);

// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
struct MetaRequest {
  std::string_view export_name;
  uint32_t queries_count = 0;
  ByteView queries;  // each a 32-bit length and that many bytes, all checked
};
// Errc::invalid: lengths that do not fit exactly, a string that is not valid, a query without a namespace.
// Errc::too_large: more than limits::kMaxMetaQueries queries.
Result<MetaRequest> decode_meta_request(ByteView payload);

// Takes the first query off `queries`, which must hold one and come from decode_meta_request.
std::string_view next_query(ByteView& queries);

enum class MetaQueryKind {
  list,  // NBD_OPT_LIST_META_CONTEXT: a namespace with an empty leaf is a wildcard, and so is a path that
         // ends with a slash
  set,   // NBD_OPT_SET_META_CONTEXT: it selects nothing
};
// Whether `query` asks for the context `context_name` ("base:allocation").
bool query_matches(std::string_view query, std::string_view context_name, MetaQueryKind kind);

// Payloads of NBD_REP_INFO.
inline constexpr size_t kInfoExportBytes = 2 + 8 + 2;
inline constexpr size_t kInfoBlockSizeBytes = 2 + 4 + 4 + 4;
inline constexpr size_t kInfoStringHeaderBytes = 2;  // of NAME and DESCRIPTION; the string follows

struct BlockSizes {
  uint32_t min_bytes = 1;
  uint32_t preferred_bytes = 4096;
  uint32_t max_payload_bytes = 0;
};

void encode_info_export(std::span<std::byte, kInfoExportBytes> out, uint64_t size_bytes, uint16_t flags);
void encode_info_block_size(std::span<std::byte, kInfoBlockSizeBytes> out, const BlockSizes& sizes);
void encode_info_string_header(std::span<std::byte, kInfoStringHeaderBytes> out, InfoType type);

// NBD_REP_SERVER: this header, the name, the description.
inline constexpr size_t kServerHeaderBytes = 4;
void encode_server_header(std::span<std::byte, kServerHeaderBytes> out, uint32_t name_bytes);

// NBD_REP_META_CONTEXT: this header, the name of the context.
inline constexpr size_t kMetaContextHeaderBytes = 4;
void encode_meta_context_header(std::span<std::byte, kMetaContextHeaderBytes> out, uint32_t context_id);

}  // namespace fdbnbd::proto
