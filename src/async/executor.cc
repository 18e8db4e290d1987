#include "async/executor.h"

#include <memory>
#include <utility>

namespace fdbnbd {

namespace {

class FunctionWork final : public Work {
 public:
  explicit FunctionWork(UniqueFunction<void()> function) : function_(std::move(function)) {}
  void run() noexcept override {
    const std::unique_ptr<FunctionWork> self(this);
    function_();
  }

 private:
  UniqueFunction<void()> function_;
};

}  // namespace

void post(Executor& executor, UniqueFunction<void()> function) {
  executor.post(*std::make_unique<FunctionWork>(std::move(function)).release());
}

}  // namespace fdbnbd
