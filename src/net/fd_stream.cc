#include "net/fd_stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>

#include "base/assert.h"
#include "base/limits.h"
#include "net/socket_address.h"

namespace fdbnbd::net {

namespace {

tl::unexpected<Error> transfer_error(const char* what) {
  const int code = errno;
  const bool gone = code == ECONNRESET || code == EPIPE || code == ETIMEDOUT || code == ENOTCONN ||
                    code == ECONNABORTED || code == EHOSTUNREACH || code == ENETUNREACH;
  return fail(gone ? Errc::peer_gone : Errc::io,
              fmt::format("{}: {}", what, std::generic_category().message(code)));
}

bool is_socket(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

void set_option(int fd, int level, int name, int value) {
  // A hint that the kernel may refuse; the stream works without.
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

// Puts a descriptor in non-blocking mode while it lives.
class NonBlocking {
 public:
  explicit NonBlocking(int fd) : fd_(fd), old_flags_(::fcntl(fd, F_GETFL)) {
    if (old_flags_ >= 0) ::fcntl(fd, F_SETFL, old_flags_ | O_NONBLOCK);
  }
  NonBlocking(const NonBlocking&) = delete;
  NonBlocking& operator=(const NonBlocking&) = delete;
  ~NonBlocking() {
    if (old_flags_ >= 0) ::fcntl(fd_, F_SETFL, old_flags_);
  }

 private:
  int fd_;
  int old_flags_;
};

class FdStream final : public Stream {
 public:
  FdStream(OwnedFd in, OwnedFd out, std::string peer)
      : in_(std::move(in)), out_(std::move(out)), peer_(std::move(peer)) {
    in_is_socket_ = is_socket(in_.get());
    out_is_socket_ = out_ ? is_socket(out_.get()) : in_is_socket_;
    if (!in_is_socket_) in_mode_.emplace(in_.get());
    if (out_ && !out_is_socket_) out_mode_.emplace(out_.get());
  }

  ~FdStream() override { close(); }

  Transfer try_read(MutableByteView into) override {
    if (closed_) return fail(Errc::cancelled, "the connection is closed");
    if (!watch_.may_be_ready(Direction::read)) return std::nullopt;
    for (;;) {
      const ssize_t n = in_is_socket_ ? ::recv(in_.get(), into.data(), into.size(), MSG_DONTWAIT)
                                      : ::read(in_.get(), into.data(), into.size());
      if (n >= 0) {
        // A short read has emptied the socket: the next bytes bring an event of their own (epoll(7), question
        // 9), unless the end is already queued behind them.
        const auto got = static_cast<size_t>(n);
        if (in_is_socket_ && got > 0 && got < into.size() && !watch_.peer_closed()) {
          watch_.would_block(Direction::read);
        }
        return got;
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        watch_.would_block(Direction::read);
        return std::nullopt;
      }
      if (errno != EINTR) return transfer_error("read");
    }
  }

  Transfer try_write(std::span<const ByteView> parts) override {
    if (closed_) return fail(Errc::cancelled, "the connection is closed");
    IoWatch& watch = out_ ? out_watch_ : watch_;
    if (!watch.may_be_ready(Direction::write)) return std::nullopt;
    std::array<iovec, kMaxGatherParts> vectors;
    const size_t count = std::min(parts.size(), vectors.size());
    for (size_t i = 0; i < count; ++i) {
      vectors[i].iov_base = const_cast<std::byte*>(parts[i].data());
      vectors[i].iov_len = parts[i].size();
    }
    for (;;) {
      const ssize_t n = write_vectors(std::span(vectors).first(count));
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        watch.would_block(Direction::write);
        return std::nullopt;
      }
      if (errno != EINTR) return transfer_error("write");
    }
  }

  void interrupt() override {
    watch_.interrupt();
    out_watch_.interrupt();
  }

  void shutdown_write() override {
    if (closed_) return;
    if (out_is_socket_) {
      ::shutdown(out_ ? out_.get() : in_.get(), SHUT_WR);
    } else if (out_) {
      out_watch_.detach();
      out_mode_.reset();
      out_.reset();
      out_is_shut_ = true;
    }
  }

  void close() override {
    if (closed_) return;
    closed_ = true;
    detach();
    in_mode_.reset();
    out_mode_.reset();
    in_.reset();
    out_.reset();
  }

  void detach() override {
    watch_.detach();
    out_watch_.detach();
  }

  Result<void> attach(Executor& executor) override {
    IoLoop* const loop = IoLoop::from(executor);
    if (loop == nullptr) return fail(Errc::invalid, "this executor has no descriptors");
    if (closed_) return {};
    RETURN_IF_ERROR(watch_.attach(*loop, in_.get()));
    if (out_) RETURN_IF_ERROR(out_watch_.attach(*loop, out_.get()));
    return {};
  }

  const std::string& peer() const override { return peer_; }

 private:
  ssize_t write_vectors(std::span<iovec> vectors) const {
    if (out_is_shut_) {
      errno = EPIPE;
      return -1;
    }
    const int fd = out_ ? out_.get() : in_.get();
    if (!out_is_socket_) return ::writev(fd, vectors.data(), static_cast<int>(vectors.size()));
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  bool start_wait(Direction direction, Work& waiter) override {
    if (closed_) return false;
    const bool apart = direction == Direction::write && out_;
    return (apart ? out_watch_ : watch_).start_wait(direction, waiter);
  }

  OwnedFd in_;
  OwnedFd out_;  // only where it is not `in_`
  std::string peer_;
  bool in_is_socket_ = false;
  bool out_is_socket_ = false;
  bool out_is_shut_ = false;
  bool closed_ = false;
  std::optional<NonBlocking> in_mode_;
  std::optional<NonBlocking> out_mode_;
  IoWatch watch_;
  IoWatch out_watch_;
};

template <typename D>
int seconds(D duration) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::seconds>(duration).count());
}

}  // namespace

void tune_socket(int fd) {
  if (socket_family(fd) == AF_UNIX) {
    // The default, 208 KiB, makes a 1 MiB reply wake the sender up many times. More than the system's bound
    // needs a privilege, so both ways are tried.
    constexpr int kSendBuffer = limits::kUnixSendBufferBytes;
    if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer, sizeof kSendBuffer) != 0) {
      set_option(fd, SOL_SOCKET, SO_SNDBUF, kSendBuffer);
    }
    return;
  }
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds(limits::kKeepaliveIdle));
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds(limits::kKeepaliveInterval));
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, limits::kKeepaliveProbes);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, seconds(limits::kTcpUserTimeout) * 1000);
}

std::unique_ptr<Stream> make_socket_stream(OwnedFd socket) {
  tune_socket(socket.get());
  std::string peer = describe_peer(socket.get());
  return std::make_unique<FdStream>(std::move(socket), OwnedFd(), std::move(peer));
}

std::unique_ptr<Stream> make_fd_stream(int in, int out) {
  if (in == out && is_socket(in)) return make_socket_stream(OwnedFd(in));
  return std::make_unique<FdStream>(OwnedFd(in), OwnedFd(in == out ? -1 : out),
                                    fmt::format("fd {}/{}", in, out));
}

Result<std::pair<std::unique_ptr<Stream>, OwnedFd>> make_socket_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return fail(Errc::io, "socketpair: " + std::generic_category().message(errno));
  }
  OwnedFd client(fds[1]);
  tune_socket(client.get());
  return std::pair(make_socket_stream(OwnedFd(fds[0])), std::move(client));
}

}  // namespace fdbnbd::net
