#include "cli/load_connection.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "attach/link.h"
#include "base/assert.h"
#include "base/limits.h"
#include "cli/request_error.h"
#include "net/stream.h"
#include "proto/reply.h"

namespace fdbnbd::cli {

namespace {

// Taken in one call: many small replies, and small enough to stay in a core's cache.
constexpr size_t kReceiveBytes = 256 * limits::kKiB;

}  // namespace

Result<LoadConnection> LoadConnection::open(net::OwnedFd socket, const std::string& volume,
                                            uint32_t slots_count) {
  const auto terms = attach::negotiate(socket.get(), volume, proto::Option::go);
  if (!terms) return fail(terms.error().code, fmt::format("volume \"{}\": {}", volume, terms.error().what));
  return LoadConnection(std::move(socket), volume, terms->size_bytes, slots_count);
}

LoadConnection::LoadConnection(net::OwnedFd socket, std::string volume, uint64_t size_bytes,
                               uint32_t slots_count)
    : socket_(std::move(socket)),
      volume_(std::move(volume)),
      size_bytes_(size_bytes),
      slots_(slots_count),
      buffer_(kReceiveBytes) {}

LoadConnection::~LoadConnection() {
  if (!socket_) return;
  std::array<std::byte, proto::kRequestBytes> header{};
  proto::encode_request(header, {.command = proto::Command::disc});
  // A server that takes nothing more sees the connection close.
  (void)::send(socket_.get(), header.data(), header.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void LoadConnection::begin(uint32_t slot_index, const proto::Request& request) {
  Slot& slot = slots_[slot_index];
  ASSERT(!slot.in_flight);
  slot.in_flight = true;
  slot.request = request;
  slot.request.cookie = slot_index;
  proto::encode_request(slot.header, slot.request);
  unsent_.emplace_back(slot.header);
  ++in_flight_count_;
}

void LoadConnection::begin_read(uint32_t slot, uint64_t offset_bytes, uint32_t length_bytes) {
  begin(slot, {.command = proto::Command::read, .offset_bytes = offset_bytes, .length_bytes = length_bytes});
}

void LoadConnection::begin_write(uint32_t slot, uint64_t offset_bytes, ByteView data) {
  begin(slot, {.command = proto::Command::write,
               .offset_bytes = offset_bytes,
               .length_bytes = static_cast<uint32_t>(data.size())});
  unsent_.push_back(data);
}

Result<std::span<const uint32_t>> LoadConnection::wait() {
  ASSERT(in_flight_count_ > 0);
  ended_.clear();
  while (ended_.empty()) {
    RETURN_IF_ERROR(send());
    if (!unsent_.empty()) {
      ASSIGN_OR_RETURN(const bool has_room, wait_for_room());
      if (!has_room) break;
    }
    ASSIGN_OR_RETURN(const bool was_waited, receive());
    if (!was_waited) break;
  }
  return ended_;
}

Result<void> LoadConnection::send() {
  while (!unsent_.empty()) {
    std::array<iovec, net::kMaxGatherParts> vectors;
    const size_t count = std::min(unsent_.size() - sent_parts_count_, vectors.size());
    for (size_t i = 0; i < count; ++i) {
      const ByteView part = unsent_[sent_parts_count_ + i];
      vectors[i] = {.iov_base = const_cast<std::byte*>(part.data()), .iov_len = part.size()};
    }
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return {};
    if (sent < 0) return tl::unexpected(connection_error(errno));
    auto left_bytes = static_cast<size_t>(sent);
    while (sent_parts_count_ < unsent_.size() && left_bytes >= unsent_[sent_parts_count_].size())
      left_bytes -= unsent_[sent_parts_count_++].size();
    if (sent_parts_count_ < unsent_.size()) {
      unsent_[sent_parts_count_] = unsent_[sent_parts_count_].subspan(left_bytes);
    } else {
      unsent_.clear();
      sent_parts_count_ = 0;
    }
  }
  return {};
}

Result<bool> LoadConnection::wait_for_room() {
  pollfd polled{.fd = socket_.get(), .events = POLLIN | POLLOUT, .revents = 0};
  if (::poll(&polled, 1, -1) >= 0) return true;
  if (errno == EINTR) return false;
  return tl::unexpected(connection_error(errno));
}

Result<bool> LoadConnection::receive() {
  const MutableByteView free = MutableByteView(buffer_).subspan(kept_bytes_);
  const ssize_t count = ::recv(socket_.get(), free.data(), free.size(), unsent_.empty() ? 0 : MSG_DONTWAIT);
  if (count < 0 && errno == EINTR) return false;
  if (count < 0 && errno == EAGAIN) return true;
  if (count < 0) return tl::unexpected(connection_error(errno));
  if (count == 0) return tl::unexpected(connection_error(ESHUTDOWN));
  RETURN_IF_ERROR(take_replies(ByteView(buffer_).first(kept_bytes_ + static_cast<size_t>(count))));
  return true;
}

Result<void> LoadConnection::take_replies(ByteView input) {
  const auto end = [this](uint32_t slot) {
    slots_[slot].in_flight = false;
    --in_flight_count_;
    ended_.push_back(slot);
  };
  for (;;) {
    if (data_left_bytes_ > 0) {
      const size_t taken = std::min<size_t>(data_left_bytes_, input.size());
      input = input.subspan(taken);
      data_left_bytes_ -= static_cast<uint32_t>(taken);
      if (data_left_bytes_ > 0) break;
      end(data_slot_);
    }
    if (input.size() < proto::kSimpleReplyBytes) break;
    const auto reply = proto::decode_simple_reply(input.first<proto::kSimpleReplyBytes>());
    input = input.subspan(proto::kSimpleReplyBytes);
    if (!reply || reply->cookie >= slots_.size() || !slots_[reply->cookie].in_flight)
      return fail(Errc::protocol, fmt::format("volume \"{}\": the server's answer is no reply", volume_));
    const auto slot_index = static_cast<uint32_t>(reply->cookie);
    const proto::Request& request = slots_[slot_index].request;
    const bool is_read = request.command == proto::Command::read;
    if (reply->error != 0) {
      return tl::unexpected(request_error(volume_, is_read ? "a read" : "a write", request.offset_bytes,
                                          request.length_bytes, static_cast<int>(reply->error)));
    }
    if (is_read) {
      data_slot_ = slot_index;
      data_left_bytes_ = request.length_bytes;
    } else {
      end(slot_index);
    }
  }
  kept_bytes_ = input.size();
  std::memmove(buffer_.data(), input.data(), kept_bytes_);
  return {};
}

Error LoadConnection::connection_error(int error) const {
  return {errc_of_errno(error),
          fmt::format("the connection to volume \"{}\" failed: {}", volume_,
                      error == ESHUTDOWN ? "the server closed it" : std::strerror(error))};
}

}  // namespace fdbnbd::cli
