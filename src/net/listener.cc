#include "net/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "net/fd.h"
#include "net/fd_stream.h"
#include "net/socket_address.h"

namespace fdbnbd::net {

namespace {

constexpr int kFirstActivationFd = 3;  // sd_listen_fds(3)

std::string error_text(int code) {
  return std::generic_category().message(code);
}

// The file of a Unix socket that this process made; removed with its owner while it still is the same file.
class SocketFile {
 public:
  SocketFile(std::string path, const struct stat& status)
      : path_(std::move(path)), device_(status.st_dev), inode_(status.st_ino) {}
  SocketFile(SocketFile&& other) noexcept
      : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}
  SocketFile& operator=(SocketFile&&) = delete;
  ~SocketFile() {
    struct stat status{};
    if (path_.empty() || ::lstat(path_.c_str(), &status) != 0) return;
    if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
  }

 private:
  std::string path_;
  dev_t device_;
  ino_t inode_;
};

class SocketAcceptor final : public Acceptor {
 public:
  SocketAcceptor(IoLoop& loop, OwnedFd socket, std::string address, std::optional<SocketFile> file)
      : loop_(loop),
        socket_(std::move(socket)),
        address_(std::move(address)),
        file_(std::move(file)),
        reserve_(open_reserve()) {}
  ~SocketAcceptor() override { close(); }

  Result<void> attach() { return watch_.attach(loop_, socket_.get()); }

  Task<Result<std::unique_ptr<Stream>>> accept() override;

  void close() override {
    watch_.detach();
    socket_.reset();
    file_.reset();
    if (pause_waiter_ != nullptr) {
      loop_.cancel_timer(*pause_waiter_);
      loop_.post(*std::exchange(pause_waiter_, nullptr));
    }
  }

  const std::string& address() const override { return address_; }

 private:
  // A wait that close() cuts short.
  struct Pause final : TimerWork {
    explicit Pause(SocketAcceptor& acceptor) : acceptor(acceptor) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiting) noexcept {
      waiter = waiting;
      acceptor.pause_waiter_ = this;
      acceptor.loop_.start_timer(*this, limits::kAcceptRetryDelay);
    }
    void await_resume() const noexcept {}
    void run() noexcept override {
      acceptor.pause_waiter_ = nullptr;
      waiter.resume();
    }

    SocketAcceptor& acceptor;
    std::coroutine_handle<> waiter;
  };

  static OwnedFd open_reserve() { return OwnedFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

  // Out of descriptors: takes the connection with the reserve and closes it, so that it neither waits for
  // ever nor keeps the loop busy. False where not even that worked.
  bool refuse_with_reserve() {
    if (!reserve_) return false;
    reserve_.reset();
    const bool refused = static_cast<bool>(OwnedFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    reserve_ = open_reserve();
    return refused;
  }

  IoLoop& loop_;
  OwnedFd socket_;
  std::string address_;
  std::optional<SocketFile> file_;
  OwnedFd reserve_;
  IoWatch watch_;
  TimerWork* pause_waiter_ = nullptr;
};

Task<Result<std::unique_ptr<Stream>>> SocketAcceptor::accept() {
  for (;;) {
    if (!socket_) co_return fail(Errc::cancelled, "not listening any more");
    if (!watch_.may_be_ready(Direction::read)) {
      co_await watch_.ready(Direction::read);
      continue;
    }
    OwnedFd connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) {
      std::unique_ptr<Stream> stream = make_socket_stream(std::move(connection));
      // The kernel may have no room to watch it: the next one may find some.
      if (auto attached = stream->attach(loop_); !attached)
        co_return fail(Errc::too_large, std::move(attached.error().what));
      co_return stream;
    }
    const int code = errno;
    switch (code) {
      case EAGAIN:
        watch_.would_block(Direction::read);
        break;
      case EMFILE:
      case ENFILE:
        if (refuse_with_reserve()) co_return fail(Errc::too_large, "out of file descriptors");
        co_await Pause(*this);
        break;
      case ENOBUFS:
      case ENOMEM:
        co_await Pause(*this);
        break;
      case EBADF:
      case EINVAL:
      case ENOTSOCK:
      case EOPNOTSUPP:
        co_return fail(Errc::io, "accept: " + error_text(code));
      default:
        break;  // The connection died while it was queued (accept(2), "Error handling"): take the next.
    }
  }
}

Result<std::unique_ptr<Acceptor>> make_acceptor(IoLoop& loop, OwnedFd socket, std::string address,
                                                std::optional<SocketFile> file) {
  auto acceptor =
      std::make_unique<SocketAcceptor>(loop, std::move(socket), std::move(address), std::move(file));
  RETURN_IF_ERROR(acceptor->attach());
  return acceptor;
}

tl::unexpected<Error> bind_error(const std::string& address, int code) {
  const std::string text = fmt::format("cannot listen on {}: {}", address, error_text(code));
  switch (code) {
    case EADDRINUSE:
      return fail(Errc::busy, text + "; another server runs there, or choose another --listen");
    case EACCES:
    case EPERM:
      return fail(Errc::permission, text);
    case ENOENT:
    case ENOTDIR:
      return fail(Errc::not_found, text);
    default:
      return fail(Errc::io, text);
  }
}

Result<std::string> bound_address(int socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (::getsockname(socket, generic, &length) != 0)
    return fail(Errc::io, "getsockname: " + error_text(errno));
  if (address.ss_family != AF_UNIX) return "tcp://" + format_address(generic, length);
  const char* const path = reinterpret_cast<const sockaddr_un&>(address).sun_path;
  return "unix:" + std::string(path, ::strnlen(path, sizeof(sockaddr_un::sun_path)));
}

uint16_t port_of(int socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

struct AddressListDeleter {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, AddressListDeleter>;

sockaddr* generic(SocketAddress& address) {
  return reinterpret_cast<sockaddr*>(&address.address);
}

void set_port(sockaddr* address, uint16_t port) {
  if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = htons(port);
  }
}

Result<OwnedFd> bind_tcp(const sockaddr* address, socklen_t length, bool only_v6) {
  OwnedFd socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const std::string name = "tcp://" + format_address(address, length);
  if (!socket) return bind_error(name, errno);
  const int one = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (address->sa_family == AF_INET6 && only_v6) {
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  }
  if (::bind(socket.get(), address, length) != 0 || ::listen(socket.get(), limits::kListenBacklog) != 0) {
    return bind_error(name, errno);
  }
  return socket;
}

Result<Acceptors> listen_tcp(IoLoop& loop, const Endpoint& endpoint, std::vector<SocketAddress> addresses,
                             ListenOptions options) {
  if (!options.allow_remote) {
    for (SocketAddress& one : addresses) {
      if (is_loopback(generic(one))) continue;
      return fail(Errc::permission,
                  fmt::format("{} can be reached from other hosts, without encryption or authentication; "
                              "listen on a loopback address or a Unix socket, or say --insecure",
                              to_string(endpoint)));
    }
  }
  Acceptors acceptors;
  std::optional<Error> first_error;
  uint16_t port = endpoint.port;
  for (SocketAddress& one : addresses) {
    set_port(generic(one), port);
    auto socket = bind_tcp(generic(one), one.length, addresses.size() > 1);
    if (!socket) {
      // A host without IPv6 still resolves names to v6 addresses: the other addresses are enough. One that is
      // taken is not: half of a server is worse than none.
      if (socket.error().code == Errc::busy) return propagate(socket);
      if (!first_error) first_error = std::move(socket.error());
      continue;
    }
    port = port_of(socket->get());
    ASSIGN_OR_RETURN(std::string address, bound_address(socket->get()));
    ASSIGN_OR_RETURN(auto acceptor,
                     make_acceptor(loop, std::move(*socket), std::move(address), std::nullopt));
    acceptors.push_back(std::move(acceptor));
  }
  if (acceptors.empty()) {
    return tl::unexpected(
        first_error.value_or(Error{Errc::not_found, to_string(endpoint) + " has no address"}));
  }
  return acceptors;
}

// Removes the socket file that a dead server left behind; an error where the path is anything else.
Result<void> remove_stale(const std::string& path, const sockaddr_un& address) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) {
    return fail(Errc::exists, fmt::format("cannot listen on unix:{}: it is a file of another kind", path));
  }
  const OwnedFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return bind_error("unix:" + path, errno);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
      errno != ECONNREFUSED) {
    return bind_error("unix:" + path, EADDRINUSE);
  }
  ::unlink(path.c_str());
  return {};
}

Result<Acceptors> listen_unix(IoLoop& loop, const Endpoint& endpoint) {
  sockaddr_un address{};
  if (endpoint.path.empty() || endpoint.path.size() >= sizeof address.sun_path) {
    return fail(Errc::invalid, fmt::format("{}: no path, or one that is too long", to_string(endpoint)));
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, endpoint.path.data(), endpoint.path.size());
  RETURN_IF_ERROR(remove_stale(endpoint.path, address));
  OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return bind_error(to_string(endpoint), errno);
  }
  struct stat status{};
  if (::lstat(endpoint.path.c_str(), &status) != 0) return bind_error(to_string(endpoint), errno);
  SocketFile file(endpoint.path, status);
  if (::listen(socket.get(), limits::kListenBacklog) != 0) return bind_error(to_string(endpoint), errno);
  ASSIGN_OR_RETURN(auto acceptor,
                   make_acceptor(loop, std::move(socket), to_string(endpoint), std::move(file)));
  Acceptors acceptors;
  acceptors.push_back(std::move(acceptor));
  return acceptors;
}

// The value of an environment variable as a number, which is then taken out of the environment.
std::optional<int64_t> take_number(const char* name) {
  const char* const text = ::getenv(name);
  if (text == nullptr) return std::nullopt;
  int64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  const bool good = parsed.ec == std::errc() && parsed.ptr == end;
  ::unsetenv(name);
  if (!good) return std::nullopt;
  return value;
}

bool is_listening_stream(int fd) {
  int type = 0;
  int listening = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return false;
  length = sizeof listening;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && type == SOCK_STREAM &&
         listening != 0;
}

}  // namespace

Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint) {
  std::vector<SocketAddress> addresses;
  if (endpoint.kind == Endpoint::Kind::unix_socket) return addresses;
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* const host = endpoint.host.empty() ? nullptr : endpoint.host.c_str();
  const int code = ::getaddrinfo(host, std::to_string(endpoint.port).c_str(), &hints, &found);
  if (code != 0) {
    const std::string why = code == EAI_SYSTEM ? error_text(errno) : ::gai_strerror(code);
    return fail(Errc::not_found, fmt::format("cannot find the host of {}: {}", to_string(endpoint), why));
  }
  const AddressList list(found);
  for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    addresses.push_back({.address = {}, .length = one->ai_addrlen});
    std::memcpy(&addresses.back().address, one->ai_addr, one->ai_addrlen);
  }
  return addresses;
}

Result<Acceptors> listen(IoLoop& loop, const Endpoint& endpoint, std::vector<SocketAddress> addresses,
                         ListenOptions options) {
  if (endpoint.kind == Endpoint::Kind::unix_socket) return listen_unix(loop, endpoint);
  return listen_tcp(loop, endpoint, std::move(addresses), options);
}

Result<Acceptors> listen(IoLoop& loop, const Endpoint& endpoint, ListenOptions options) {
  ASSIGN_OR_RETURN(auto addresses, resolve(endpoint));
  return listen(loop, endpoint, std::move(addresses), options);
}

Result<Acceptors> adopt_activation_sockets(IoLoop& loop) {
  const auto pid = take_number("LISTEN_PID");
  const auto count = take_number("LISTEN_FDS");
  ::unsetenv("LISTEN_FDNAMES");
  Acceptors acceptors;
  if (!pid || *pid != ::getpid() || !count || *count <= 0) return acceptors;
  if (*count > limits::kMaxActivationSockets)
    return fail(Errc::too_large, "LISTEN_FDS names too many sockets");
  for (int fd = kFirstActivationFd; fd < kFirstActivationFd + *count; ++fd) {
    if (!is_listening_stream(fd)) {
      return fail(Errc::invalid, fmt::format("LISTEN_FDS: descriptor {} is no listening stream socket", fd));
    }
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    OwnedFd socket(fd);
    ASSIGN_OR_RETURN(std::string address, bound_address(fd));
    ASSIGN_OR_RETURN(auto acceptor, make_acceptor(loop, std::move(socket), std::move(address), std::nullopt));
    acceptors.push_back(std::move(acceptor));
  }
  return acceptors;
}

}  // namespace fdbnbd::net
