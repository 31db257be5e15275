namespace Ctkd.Fs

/// Advantages and returns along the instances of a batch, and the scaling of advantages.
[<RequireQualifiedAccess>]
module Advantage =

    /// The matrix of discounts share^(j - i), 0 for j < i: [rows, columns].
    let private discounts (dtype: DType) (device: Device) (share: float) (rows: int) (columns: int) : Tensor =
        let at count = Tensor.arange device count |> Tensor.toType DType.Float64
        let ahead = Tensor.unsqueeze 0 (at columns) - Tensor.unsqueeze 1 (at rows)
        let powers = Tensor.clamp 0.0 infinity ahead |> Tensor.scale (log share) |> Tensor.exp
        let past = Tensor.lessThanNumber 0.0 ahead
        Tensor.where past (Tensor.scale 0.0 powers) powers |> Tensor.toType dtype

    /// sum_k share^k x_(i + k) for each i of x [n], as one matrix product; `share` in (0, 1].
    let discounted (share: float) (x: Tensor) : Tensor =
        let n = Tensor.size 0 x
        Tensor.matmul (discounts (Tensor.dtype x) (Tensor.device x) share n n) x

    /// V_(t+1) [n] from the values V_t [n] and the value beyond the batch [1].
    let private following (beyond: Tensor) (values: Tensor) : Tensor =
        Tensor.cat 0 [ Tensor.slice 0 1 (Tensor.size 0 values) values; beyond ]

    /// Generalised advantages [n] (Schulman et al. 2016, arXiv:1506.02438, eq. 16):
    /// sum_k (discount lambda)^k d_(t+k), d_t = r_t + discount V_(t+1) - V_t.
    /// Rewards and values [n], the value beyond the batch [1].
    let generalised (discount: float) (lambda: float) (rewards: Tensor) (values: Tensor) (beyond: Tensor) : Tensor =
        rewards + Tensor.scale discount (following beyond values) - values |> discounted (discount * lambda)

    /// Returns [n]: sum_k discount^k r_(t+k), with the value beyond the batch [1] as the last reward.
    let returns (discount: float) (rewards: Tensor) (beyond: Tensor) : Tensor =
        let n = Tensor.size 0 rewards
        let discounts = discounts (Tensor.dtype rewards) (Tensor.device rewards) discount n (n + 1)
        Tensor.matmul discounts (Tensor.cat 0 [ rewards; beyond ])

    /// (A - mean A) / (deviation A + 1e-8) within the batch; the deviation is the biased one.
    let zScored (advantages: Tensor) : Tensor =
        let centred = advantages - Tensor.mean advantages
        let deviation = Tensor.mean (centred * centred) |> Tensor.sqrt
        centred / Tensor.addNumber 1e-8 deviation

    /// The running mean of the numbers seen so far, where each weighs `kept` times the next, from their weighted sum and
    /// their count (float64 [] each, 0 at first); 0 before the first.
    let runningMean (kept: float) (sum: Tensor) (count: Tensor) : Tensor =
        let weight = Tensor.scale (log kept) count |> Tensor.exp |> Tensor.neg |> Tensor.addNumber 1.0
        sum / Tensor.clamp 1e-12 infinity weight

    /// Adds x [] to the weighted sum of `runningMean`, in place: kept sum + (1 - kept) x.
    let addRunning (kept: float) (sum: Tensor) (x: Tensor) : unit =
        let x = Tensor.toType DType.Float64 x |> Tensor.scale (1.0 - kept)
        Tensor.copyInto sum (Tensor.scale kept sum + x)

    /// The part of the running mean square that an update keeps.
    let private kept = 0.99

    /// Divides by the root of a running mean square, which is updated in place (float64 [], 0 at first). The mean of a batch
    /// remains, and with it the sign of its reward. `updates` (float64 []) is the number of batches before.
    let scaled (running: Tensor) (updates: Tensor) (advantages: Tensor) : Tensor =
        addRunning kept running (Tensor.mean (advantages * advantages))
        let square = runningMean kept running (Tensor.addNumber 1.0 updates)
        let size = Tensor.sqrt square |> Tensor.addNumber 1e-8
        advantages / Tensor.toType (Tensor.dtype advantages) size
