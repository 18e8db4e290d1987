#include "session/reply.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace fdbnbd::session {

using proto::Last;

namespace {

void zero_holes(const std::vector<block::ReadSegment>& segments, MutableByteView data) {
  size_t at = 0;
  for (const block::ReadSegment& segment : segments) {
    if (segment.is_hole) std::memset(data.data() + at, 0, segment.length_bytes);
    at += segment.length_bytes;
  }
}

uint64_t total_bytes(const std::vector<block::ReadSegment>& segments) {
  uint64_t total = 0;
  for (const block::ReadSegment& segment : segments) total += segment.length_bytes;
  return total;
}

template <size_t size>
std::span<std::byte, size> append(std::vector<std::byte>& to) {
  const size_t at = to.size();
  to.resize(at + size);
  return std::span<std::byte, size>(to.data() + at, size);
}

}  // namespace

void Reply::set_parts(ByteView header, ByteView data) {
  few_parts_ = {header, data};
  parts_count_ = data.empty() ? 1 : 2;
}

void Reply::set_done(const proto::Request& request, bool structured) {
  if (structured && request.command == proto::Command::read) {
    const auto header = inline_header<proto::kNoneChunkBytes>();
    proto::encode_none_chunk(header, request.cookie);
    set_parts(header);
  } else {
    const auto header = inline_header<proto::kSimpleReplyBytes>();
    proto::encode_simple_reply(header, request.cookie, proto::NbdError::ok);
    set_parts(header);
  }
}

void Reply::set_error(const proto::Request& request, bool structured, proto::NbdError error,
                      std::string_view text) {
  if (structured) {
    more_header_.resize(proto::kMaxErrorChunkBytes);
    const std::span<std::byte, proto::kMaxErrorChunkBytes> out(more_header_);
    more_header_.resize(proto::encode_error_chunk(out, request.cookie, error, text));
    set_parts(more_header_);
  } else {
    const auto header = inline_header<proto::kSimpleReplyBytes>();
    proto::encode_simple_reply(header, request.cookie, error);
    set_parts(header);
  }
}

bool Reply::set_data(const proto::Request& request, bool structured,
                     const std::vector<block::ReadSegment>& segments, MutableByteView data) {
  ASSERT(!data.empty() && total_bytes(segments) == data.size());
  if (!structured) {
    zero_holes(segments, data);
    const auto header = inline_header<proto::kSimpleReplyBytes>();
    proto::encode_simple_reply(header, request.cookie, proto::NbdError::ok);
    set_parts(header, data);
    return true;
  }
  const auto length_bytes = static_cast<uint32_t>(data.size());
  if (segments.size() == 1 && segments.front().is_hole) {
    const auto header = inline_header<proto::kOffsetHoleChunkBytes>();
    proto::encode_offset_hole(header, request.cookie, Last::yes, request.offset_bytes, length_bytes);
    set_parts(header);
    return false;
  }
  if (segments.size() == 1 || request.has(proto::kCmdFlagDf)) {
    zero_holes(segments, data);
    const auto header = inline_header<proto::kOffsetDataHeaderBytes>();
    proto::encode_offset_data_header(header, request.cookie, Last::yes, request.offset_bytes, length_bytes);
    set_parts(header, data);
    return true;
  }
  set_chunks(request, segments, data);
  return true;
}

void Reply::set_chunks(const proto::Request& request, const std::vector<block::ReadSegment>& segments,
                       ByteView data) {
  // Reserved in full first: the parts point into it.
  size_t headers_bytes = 0;
  for (const block::ReadSegment& segment : segments) {
    headers_bytes += segment.is_hole ? proto::kOffsetHoleChunkBytes : proto::kOffsetDataHeaderBytes;
  }
  more_header_.reserve(headers_bytes);
  more_parts_.reserve(segments.size() + 1);
  uint64_t offset_bytes = request.offset_bytes;
  size_t header_begin = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto [length_bytes, is_hole] = segments[i];
    const Last last = i + 1 == segments.size() ? Last::yes : Last::no;
    if (is_hole) {
      proto::encode_offset_hole(append<proto::kOffsetHoleChunkBytes>(more_header_), request.cookie, last,
                                offset_bytes, length_bytes);
    } else {
      proto::encode_offset_data_header(append<proto::kOffsetDataHeaderBytes>(more_header_), request.cookie,
                                       last, offset_bytes, length_bytes);
      more_parts_.push_back(ByteView(more_header_).subspan(header_begin));
      more_parts_.push_back(data.subspan(offset_bytes - request.offset_bytes, length_bytes));
      header_begin = more_header_.size();
    }
    offset_bytes += length_bytes;
  }
  if (header_begin < more_header_.size()) more_parts_.push_back(ByteView(more_header_).subspan(header_begin));
  parts_count_ = more_parts_.size();
}

void Reply::set_status(const proto::Request& request, std::span<const ContextStatus> contexts) {
  ASSERT(!contexts.empty());
  for (const ContextStatus& context : contexts) {
    ASSERT(!context.extents.empty());
    std::vector<std::byte> descriptors;
    descriptors.reserve(context.extents.size() * proto::kStatusDescriptorBytes);
    uint64_t offset_bytes = request.offset_bytes;
    for (const block::FlaggedExtent& extent : context.extents) {
      const uint32_t length_bytes = proto::status_descriptor_length(offset_bytes, extent.length_bytes);
      proto::encode_status_descriptor(append<proto::kStatusDescriptorBytes>(descriptors), length_bytes,
                                      extent.flags);
      offset_bytes += length_bytes;
      if (length_bytes != extent.length_bytes) break;  // cut: what follows would not be adjacent
    }
    const Last last = &context == &contexts.back() ? Last::yes : Last::no;
    proto::encode_block_status_header(
        append<proto::kBlockStatusHeaderBytes>(more_header_), request.cookie, last, context.context_id,
        static_cast<uint32_t>(descriptors.size() / proto::kStatusDescriptorBytes));
    more_header_.insert(more_header_.end(), descriptors.begin(), descriptors.end());
  }
  set_parts(more_header_);
}

size_t Reply::mark_sent(size_t bytes) {
  const std::span<ByteView> all = parts();
  while (sent_parts_ < all.size()) {
    ByteView& part = all[sent_parts_];
    const size_t count = std::min(bytes, part.size());
    bytes -= count;
    if (count < part.size()) {
      part = part.subspan(count);
      return 0;
    }
    ++sent_parts_;
  }
  return bytes;
}

}  // namespace fdbnbd::session
