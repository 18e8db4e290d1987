#include "server/server.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <future>
#include <thread>
#include <type_traits>
#include <utility>

#include "async/scope.h"
#include "base/log.h"
#include "control/server.h"
#include "control/service.h"
#include "net/fd_stream.h"
#include "net/io_loop.h"
#include "net/listener.h"
#include "server/open_engine.h"
#include "server/read_only_exports.h"
#include "session/server.h"
#include "volume/live_exports.h"
#include "volume/store.h"

namespace fdbnbd::server {

namespace {

constexpr uint32_t kMaxDefaultIoThreads = 4;

// While it lives, threads that are started get no signals: those are for the thread that waits for them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

// This process, as the people of a cluster know it.
std::string holder_name() {
  char host[HOST_NAME_MAX + 1] = {};
  if (::gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  return fmt::format("{}, pid {}", host[0] != '\0' ? host : "a host without a name", ::getpid());
}

// A place to listen at, and what the look-up of its host has brought.
struct ListenTarget {
  net::Endpoint endpoint;
  Result<std::vector<net::SocketAddress>> addresses;
};

// Blocks: not on a loop that has leases to renew.
std::vector<ListenTarget> look_up(const std::vector<net::Endpoint>& endpoints) {
  std::vector<ListenTarget> targets;
  for (const net::Endpoint& endpoint : endpoints) targets.push_back({endpoint, net::resolve(endpoint)});
  return targets;
}

class RunningServer final : public Server, private control::StatusSource {
 public:
  explicit RunningServer(ServerOptions options) : options_(std::move(options)) {
    for (uint32_t i = 0; i < std::max(1U, options_.io_threads_count); ++i) {
      threads_.push_back(std::make_unique<net::IoThread>(fmt::format("io-{}", i)));
    }
  }

  Result<void> open();

  std::vector<std::string> addresses() override { return run_at_home(addresses_at_home()); }
  void reload(ServerOptions options, UniqueFunction<void(Result<void>)> on_done) override;
  Result<net::OwnedFd> connect_control() override;
  void serve_descriptors(int in, int out, UniqueFunction<void()> on_end) override;
  bool stop() override;

 private:
  net::IoLoop& home() { return threads_.front()->loop(); }

  // Runs `task` on the home thread and waits for it.
  template <typename T>
  T run_at_home(Task<T> task);
  template <typename T>
  static Task<void> deliver(Task<T> task, std::promise<T>& result);

  // All of the following on the home thread.
  Task<Result<net::Acceptors>> adopt_sockets();
  Task<Result<void>> open_store();
  Task<Result<void>> make_volume(config::VolumeSpec spec);
  Task<Result<void>> make_volumes(std::vector<config::VolumeSpec> specs);
  Task<Result<void>> make_first_volume();
  Task<Result<void>> start_serving(net::Acceptors acceptors, std::vector<ListenTarget> targets);
  Task<std::vector<std::string>> addresses_at_home();
  Result<void> listen_at(std::vector<ListenTarget> targets);
  Task<Result<void>> take_over(ServerOptions options, std::vector<ListenTarget> targets);
  Task<void> reload_at_home(ServerOptions options, std::vector<ListenTarget> targets,
                            UniqueFunction<void(Result<void>)> on_done);
  std::unique_ptr<block::ExportRegistry> make_read_only_exports();
  Result<void> listen_for_control();
  Task<void> accept_control();
  Task<void> serve_nbd(std::unique_ptr<net::Stream> stream, UniqueFunction<void()> on_end);
  Task<Result<net::OwnedFd>> connect_control_at_home();
  Task<Result<void>> serve_descriptors_at_home(int in, int out, UniqueFunction<void()> on_end);
  Task<void> shut_down();
  control::StatusReply status() override;

  const ServerOptions options_;
  const WallTime started_ = system_clock().wall_now();
  const MonotonicTime started_monotonic_ = system_clock().now();
  std::unique_ptr<kv::Engine> engine_;
  std::vector<std::unique_ptr<net::IoThread>> threads_;

  // Made, used and destroyed on the home thread.
  std::unique_ptr<volume::Store> store_;
  volume::Store::Options store_options_;
  std::unique_ptr<block::ExportRegistry> read_only_exports_;  // null where clients may write
  std::unique_ptr<session::SessionServer> sessions_;
  std::unique_ptr<control::Service> service_;
  std::unique_ptr<control::ControlServer> control_;
  std::unique_ptr<net::Acceptor> control_acceptor_;
  // Where this server listens by itself, and the addresses of each; the service manager's are not here.
  struct Listening {
    net::Endpoint endpoint;
    std::vector<std::string> addresses;
  };
  std::vector<Listening> listening_;
  bool is_activated_ = false;  // by sockets of the service manager
  TaskScope tasks_;            // end when the server stops
  TaskScope calls_;            // of run_at_home()
  std::promise<void> stopped_;
};

template <typename T>
Task<void> RunningServer::deliver(Task<T> task, std::promise<T>& result) {
  if constexpr (std::is_void_v<T>) {
    co_await std::move(task);
    result.set_value();
  } else {
    result.set_value(co_await std::move(task));
  }
}

template <typename T>
T RunningServer::run_at_home(Task<T> task) {
  std::promise<T> result;
  std::future<T> delivered = result.get_future();
  post(home(),
       [this, &result, task = std::move(task)]() mutable { calls_.spawn(deliver(std::move(task), result)); });
  return delivered.get();
}

Result<void> RunningServer::open() {
  net::Acceptors acceptors;
  if (options_.use_activation_sockets) {
    ASSIGN_OR_RETURN(acceptors, run_at_home(adopt_sockets()));
  }
  ASSIGN_OR_RETURN(engine_, open_engine(options_));
  RETURN_IF_ERROR(run_at_home(open_store()));
  RETURN_IF_ERROR(run_at_home(make_volumes(options_.volumes)));
  RETURN_IF_ERROR(run_at_home(make_first_volume()));
  std::vector<ListenTarget> targets;
  if (acceptors.empty()) targets = look_up(options_.listen);
  return run_at_home(start_serving(std::move(acceptors), std::move(targets)));
}

Task<Result<net::Acceptors>> RunningServer::adopt_sockets() {
  co_return net::adopt_activation_sockets(home());
}

Task<Result<void>> RunningServer::open_store() {
  store_options_.key_prefix = key_prefix(options_.store);
  store_options_.trash_retention = options_.trash_retention;
  store_options_.ownership = {.takeover = options_.takeover,
                              .lease_duration = options_.lease_duration,
                              .process = this_process(),
                              .holder = holder_name()};
  for (const auto& thread : threads_) store_options_.volume_executors.push_back(&thread->loop());
  auto store = co_await volume::open_store(*engine_, home(), store_options_);
  if (!store) {
    store.error().what = fmt::format("store {}: {}", config::to_string(options_.store), store.error().what);
    co_return propagate(store);
  }
  store_ = std::move(*store);
  co_return Result<void>();
}

Task<Result<void>> RunningServer::make_volume(config::VolumeSpec spec) {
  const auto info = co_await store_->info(spec.name);
  if (info) {
    if (info->size_bytes != spec.size_bytes) {
      log::info("volume {} is there already, with {} bytes instead of {}", spec.name, info->size_bytes,
                spec.size_bytes);
    }
    co_return Result<void>();
  }
  if (info.error().code != Errc::not_found) co_return tl::unexpected(info.error());
  volume::CreateOptions create;
  create.size_bytes = spec.size_bytes;
  auto made = co_await store_->create(spec.name, create);
  if (made || made.error().code == Errc::exists) co_return Result<void>();  // somebody else was quicker
  made.error().what = fmt::format("cannot make the volume {}: {}", spec.name, made.error().what);
  co_return propagate(made);
}

Task<Result<void>> RunningServer::make_volumes(std::vector<config::VolumeSpec> specs) {
  for (const auto& spec : specs) CO_RETURN_IF_ERROR(co_await make_volume(spec));
  co_return Result<void>();
}

Task<Result<void>> RunningServer::make_first_volume() {
  if (!options_.first_volume) co_return Result<void>();
  ASSIGN_OR_CO_RETURN(const auto volumes, co_await store_->list_volumes());
  if (volumes.empty()) CO_RETURN_IF_ERROR(co_await make_volume(*options_.first_volume));
  co_return Result<void>();
}

Task<Result<void>> RunningServer::start_serving(net::Acceptors acceptors, std::vector<ListenTarget> targets) {
  service_ = std::make_unique<control::Service>(*store_, static_cast<control::StatusSource&>(*this));
  control_ = std::make_unique<control::ControlServer>(
      home(), *service_,
      [this](std::unique_ptr<net::Stream> stream) { tasks_.spawn(serve_nbd(std::move(stream), {})); });
  block::ExportRegistry* exports = store_.get();
  if (options_.read_only) {
    read_only_exports_ = make_read_only_exports();
    exports = read_only_exports_.get();
  }
  session::SessionServer::Options session_options;
  session_options.limits = options_.limits;
  sessions_ = std::make_unique<session::SessionServer>(home(), *exports, session_options);
  if (!options_.control_path.empty()) CO_RETURN_IF_ERROR(listen_for_control());
  is_activated_ = !acceptors.empty();
  for (auto& acceptor : acceptors) sessions_->serve(std::move(acceptor));
  if (!is_activated_) CO_RETURN_IF_ERROR(listen_at(std::move(targets)));
  if (options_.takeover == volume::Takeover::handover) {
    ASSIGN_OR_CO_RETURN(const uint32_t taken_count, co_await store_->take_over_held());
    log::info("{} volumes taken over", taken_count);
  }
  co_return Result<void>();
}

Task<std::vector<std::string>> RunningServer::addresses_at_home() {
  co_return sessions_->addresses();
}

// All of `targets` and nowhere else, or, on an error, where it was.
Result<void> RunningServer::listen_at(std::vector<ListenTarget> targets) {
  std::vector<Listening> added;
  net::Acceptors acceptors;
  for (auto& [endpoint, addresses] : targets) {
    if (std::ranges::find(listening_, endpoint, &Listening::endpoint) != listening_.end()) continue;
    if (!addresses) return propagate(addresses);
    ASSIGN_OR_RETURN(net::Acceptors more, net::listen(home(), endpoint, std::move(*addresses),
                                                      {.allow_remote = options_.allow_remote}));
    added.push_back({endpoint, {}});
    for (auto& acceptor : more) {
      added.back().addresses.push_back(acceptor->address());
      acceptors.push_back(std::move(acceptor));
    }
  }
  std::erase_if(listening_, [&](const Listening& one) {
    if (std::ranges::find(targets, one.endpoint, &ListenTarget::endpoint) != targets.end()) return false;
    for (const std::string& address : one.addresses) sessions_->stop_accepting(address);
    return true;
  });
  std::ranges::move(added, std::back_inserter(listening_));
  for (auto& acceptor : acceptors) sessions_->serve(std::move(acceptor));
  return {};
}

void RunningServer::reload(ServerOptions options, UniqueFunction<void(Result<void>)> on_done) {
  auto targets = look_up(options.listen);
  post(home(), [this, options = std::move(options), targets = std::move(targets),
                on_done = std::move(on_done)]() mutable {
    tasks_.spawn(reload_at_home(std::move(options), std::move(targets), std::move(on_done)));
  });
}

Task<void> RunningServer::reload_at_home(ServerOptions options, std::vector<ListenTarget> targets,
                                         UniqueFunction<void(Result<void>)> on_done) {
  on_done(co_await take_over(std::move(options), std::move(targets)));
}

Task<Result<void>> RunningServer::take_over(ServerOptions options, std::vector<ListenTarget> targets) {
  if (!is_activated_) CO_RETURN_IF_ERROR(listen_at(std::move(targets)));
  sessions_->set_limits(options.limits);
  store_->set_trash_retention(options.trash_retention);
  co_return co_await make_volumes(std::move(options.volumes));
}

// Where others may write meanwhile, volumes are read as they are in the store; an embedded store is ours
// alone.
std::unique_ptr<block::ExportRegistry> RunningServer::make_read_only_exports() {
  if (engine_->capabilities().shared_between_hosts)
    return std::make_unique<volume::LiveExports>(*engine_, home(), *store_, store_options_);
  return std::make_unique<ReadOnlyExports>(*store_);
}

Result<void> RunningServer::listen_for_control() {
  net::Endpoint endpoint;
  endpoint.kind = net::Endpoint::Kind::unix_socket;
  endpoint.path = options_.control_path;
  // Nobody but the owner may connect, from the first moment on.
  const mode_t old_mask = ::umask(0177);
  auto acceptors = net::listen(home(), endpoint);
  ::umask(old_mask);
  if (!acceptors) {
    return fail(acceptors.error().code,
                fmt::format("control socket: {}; --control PATH puts it elsewhere", acceptors.error().what));
  }
  control_acceptor_ = std::move(acceptors->front());
  tasks_.spawn(accept_control());
  return {};
}

Task<void> RunningServer::accept_control() {
  while (true) {
    auto stream = co_await control_acceptor_->accept();
    if (stream) {
      control_->serve(std::move(*stream));
    } else if (stream.error().code == Errc::cancelled) {
      co_return;
    } else {
      log::warning("control socket: {}", stream.error().what);
    }
  }
}

Task<void> RunningServer::serve_nbd(std::unique_ptr<net::Stream> stream, UniqueFunction<void()> on_end) {
  const auto ended = co_await sessions_->serve_stream(std::move(stream));
  if (!ended) log::info("session: {}", ended.error().what);
  if (on_end) on_end();
}

Result<net::OwnedFd> RunningServer::connect_control() {
  return run_at_home(connect_control_at_home());
}

Task<Result<net::OwnedFd>> RunningServer::connect_control_at_home() {
  ASSIGN_OR_CO_RETURN(auto pair, net::make_socket_pair());
  CO_RETURN_IF_ERROR(pair.first->attach(home()));
  control_->serve(std::move(pair.first));
  co_return std::move(pair.second);
}

void RunningServer::serve_descriptors(int in, int out, UniqueFunction<void()> on_end) {
  auto served = run_at_home(serve_descriptors_at_home(in, out, std::move(on_end)));
  if (!served) log::error("stdin and stdout: {}", served.error().what);
}

Task<Result<void>> RunningServer::serve_descriptors_at_home(int in, int out, UniqueFunction<void()> on_end) {
  auto stream = net::make_fd_stream(in, out);
  auto attached = stream->attach(home());
  if (!attached) {
    on_end();
    co_return attached;
  }
  tasks_.spawn(serve_nbd(std::move(stream), std::move(on_end)));
  co_return Result<void>();
}

control::StatusReply RunningServer::status() {
  const kv::EngineStats engine = engine_->stats();
  const session::ServerStats sessions = sessions_->stats();
  const uint64_t threads_count = threads_.size();
  return {.pid = ::getpid(),
          .version = FDBNBD_VERSION,
          .store = config::to_string(options_.store),
          .engine = std::string(engine_->name()),
          .started = started_,
          .uptime_s = static_cast<uint64_t>(
              std::chrono::duration_cast<std::chrono::seconds>(system_clock().now() - started_monotonic_)
                  .count()),
          .listen = sessions_->addresses(),
          .control = options_.control_path,
          .volumes_count = 0,
          .volumes_open_count = 0,
          .sessions_count = sessions.sessions,
          .requests_in_flight_count = sessions.requests_in_flight,
          .bytes_in_flight = sessions.bytes_in_flight,
          .store_bytes = engine.stored_bytes,
          .memory_bound_bytes =
              engine.memory_bound_bytes + options_.limits.process_bytes +
              threads_count * (limits::kPooledBufferBytes + options_.limits.receive_buffer_bytes)};
}

bool RunningServer::stop() {
  std::future<void> stopped = stopped_.get_future();
  post(home(), [this] { calls_.spawn(deliver(shut_down(), stopped_)); });
  if (stopped.wait_for(limits::kStopTimeout) == std::future_status::timeout) return false;
  threads_.clear();
  engine_.reset();
  return true;
}

Task<void> RunningServer::shut_down() {
  if (store_) store_->stop_opening();
  if (control_acceptor_) control_acceptor_->close();
  if (control_) tasks_.spawn(control_->stop());
  if (sessions_) co_await sessions_->stop(limits::kShutdownTimeout);
  co_await tasks_.join();
  control_acceptor_.reset();
  control_.reset();
  sessions_.reset();
  service_.reset();
  read_only_exports_.reset();
  if (store_) co_await store_->close();
  store_.reset();
}

}  // namespace

uint32_t default_io_threads_count() {
  return std::clamp(std::thread::hardware_concurrency() / 2, 1U, kMaxDefaultIoThreads);
}

Result<std::unique_ptr<Server>> Server::start(ServerOptions options) {
  const SignalsBlocked for_new_threads;
  auto server = std::make_unique<RunningServer>(std::move(options));
  auto opened = server->open();
  if (!opened) {
    // Where the store has stopped answering meanwhile, what waits for it stays behind.
    if (!server->stop()) static_cast<void>(server.release());
    return propagate(opened);
  }
  return server;
}

}  // namespace fdbnbd::server
