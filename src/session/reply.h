#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "block/export.h"
#include "proto/reply.h"
#include "proto/request.h"

namespace fdbnbd::session {

// One reply as it goes over the wire: a gather list over headers that it owns and data that lies in the
// request's buffer, which must outlive it. Made once, by one of the set_...() functions; stays where it is.
class Reply {
 public:
  Reply() = default;
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  // Success without data: a simple reply, which structured clients take too (NBD proto, "Structured reply
  // chunk message"), but for READ.
  void set_done(const proto::Request& request, bool structured);

  // A simple reply, or an error chunk with `text`.
  void set_error(const proto::Request& request, bool structured, proto::NbdError error,
                 std::string_view text);

  // The data of a READ. `segments` add up to data.size() > 0; holes become hole chunks where the client
  // understands them and did not say DF, else zeroes in `data`. Returns whether the reply refers to `data`.
  bool set_data(const proto::Request& request, bool structured,
                const std::vector<block::ReadSegment>& segments, MutableByteView data);

  // One BLOCK_STATUS chunk per context, at least one. `extents` as Export::topic_status() gives them, not
  // empty.
  struct ContextStatus {
    uint32_t context_id = 0;
    std::vector<block::FlaggedExtent> extents;
  };
  void set_status(const proto::Request& request, std::span<const ContextStatus> contexts);

  // What is still to be sent, and to note that some of it was.
  std::span<const ByteView> unsent() const { return std::span(parts()).subspan(sent_parts_); }
  bool all_sent() const { return sent_parts_ == parts_count_; }
  // Marks the first `bytes` of what is unsent as sent; returns how many were left over for the next reply.
  size_t mark_sent(size_t bytes);

 private:
  static constexpr size_t kInlineHeaderBytes = proto::kOffsetHoleChunkBytes;
  static constexpr size_t kInlineParts = 2;

  std::span<const ByteView> parts() const { return const_cast<Reply*>(this)->parts(); }
  std::span<ByteView> parts() {
    return more_parts_.empty() ? std::span(few_parts_).first(parts_count_) : std::span(more_parts_);
  }
  template <size_t size>
  std::span<std::byte, size> inline_header() {
    static_assert(size <= kInlineHeaderBytes);
    return std::span<std::byte, size>(header_.data(), size);
  }
  void set_parts(ByteView header, ByteView data = {});
  void set_chunks(const proto::Request& request, const std::vector<block::ReadSegment>& segments,
                  ByteView data);

  std::array<std::byte, kInlineHeaderBytes> header_;
  std::array<ByteView, kInlineParts> few_parts_;
  std::vector<std::byte> more_header_;
  std::vector<ByteView> more_parts_;
  size_t parts_count_ = 0;
  size_t sent_parts_ = 0;
};

}  // namespace fdbnbd::session
