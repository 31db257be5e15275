namespace Ctkd.Fs

open System

/// Options of t-SNE.
type TsneOptions = {
    /// Effective number of neighbours, > 1 and below the number of points minus one; usually 5 to 50.
    Perplexity: float
    /// Gradient steps; the first quarter pulls clusters together (early exaggeration).
    Iterations: int
    /// Seed of the initial positions.
    Seed: int
}

/// Exact t-SNE (van der Maaten and Hinton 2008, JMLR 9: 2579-2605): embeds high-dimensional points in a plane so that
/// neighbours stay neighbours. Takes time quadratic in the number of points: for up to a few thousand.
[<RequireQualifiedAccess>]
module Tsne =

    /// Perplexity 30, 1000 iterations, seed 1.
    let defaults: TsneOptions = { Perplexity = 30.0; Iterations = 1000; Seed = 1 }

    /// The most points; more would take minutes.
    let mostPoints = 5000

    /// Computes the squared distances of all pairs of points.
    let private distances (points: float[][]) : float[][] =
        let squared (a: float[]) (b: float[]) =
            let mutable sum = 0.0

            for k in 0 .. a.Length - 1 do
                sum <- sum + (a[k] - b[k]) * (a[k] - b[k])

            sum

        Array.init points.Length (fun i -> Array.init points.Length (fun j -> squared points[i] points[j]))

    /// Computes p(j | i) of one point at a precision, exp(-beta d_ij) over its sum, and its entropy in nats.
    let private conditional (i: int) (row: float[]) (beta: float) : struct (float[] * float) =
        let mutable nearest = infinity

        for j in 0 .. row.Length - 1 do
            if j <> i then nearest <- min nearest row[j]

        // Shifted by the nearest distance: the nearest point's weight is 1, so the sum is never 0.
        let weights = row |> Array.mapi (fun j d -> if j = i then 0.0 else exp (-beta * (d - nearest)))
        let total = Array.sum weights
        let p = weights |> Array.map (fun w -> w / total)
        struct (p, -(p |> Array.sumBy (fun p -> if p > 0.0 then p * log p else 0.0)))

    /// Finds by bisection of the precision the conditional probabilities of a point with exp(entropy) equal to the
    /// perplexity.
    let private neighbours (perplexity: float) (i: int) (row: float[]) : float[] =
        let wanted = log perplexity

        let rec search count low high beta =
            let struct (p, entropy) = conditional i row beta

            if count = 0 || abs (entropy - wanted) < 1e-7 then
                p
            elif entropy > wanted then
                search
                    (count - 1)
                    beta
                    high
                    (if Double.IsPositiveInfinity high then 2.0 * beta else 0.5 * (beta + high))
            else
                search (count - 1) low beta (0.5 * (low + beta))

        search 200 0.0 infinity 1.0

    let private check (perplexity: float) (points: float[][]) : unit =
        let count = points.Length

        if count < 3 || count > mostPoints then
            invalidArg (nameof points) $"t-SNE takes 3 to {mostPoints} points, got {count}."

        if points |> Array.exists (Array.forall Double.IsFinite >> not) then
            invalidArg (nameof points) "the points hold a number that is not finite."

        if not (perplexity > 1.0 && perplexity < float (count - 1)) then
            invalidArg
                (nameof perplexity)
                $"the perplexity must be > 1 and < {count - 1} for {count} points, got {perplexity}."

    /// Computes p(j | i); each row sums to 1 and has the given perplexity.
    let conditionals (perplexity: float) (points: float[][]) : float[][] =
        check perplexity points
        distances points |> Array.mapi (neighbours perplexity)

    /// Computes the joint probabilities p_ij = (p(j | i) + p(i | j)) / 2n: symmetric, with sum 1.
    let joint (perplexity: float) (points: float[][]) : float[][] =
        let p = conditionals perplexity points
        let n = float points.Length
        Array.init p.Length (fun i -> Array.init p.Length (fun j -> (p[i][j] + p[j][i]) / (2.0 * n)))

    /// Computes Student's kernel 1 / (1 + d^2) of all pairs of positions into `into`; returns its sum over all pairs.
    let private kernel (places: struct (float * float)[]) (into: float[][]) : float =
        let mutable total = 0.0

        for i in 0 .. places.Length - 1 do
            let struct (x, y) = places[i]

            for j in 0 .. i - 1 do
                let struct (u, v) = places[j]
                let q = 1.0 / (1.0 + (x - u) * (x - u) + (y - v) * (y - v))
                into[i][j] <- q
                total <- total + 2.0 * q

        total

    let private triangle (count: int) : float[][] = Array.init count (fun i -> Array.zeroCreate i)

    /// Computes KL(P || Q) in nats of positions in the plane, which t-SNE minimises.
    let divergence (joint: float[][]) (places: struct (float * float)[]) : float =
        let q = triangle places.Length
        let total = kernel places q
        let mutable sum = 0.0

        for i in 0 .. places.Length - 1 do
            for j in 0 .. i - 1 do
                let p = joint[i][j]
                if p > 0.0 then sum <- sum + 2.0 * p * log (p * total / q[i][j])

        sum

    /// Returns initial positions: normal numbers with standard deviation 1e-4, a function of the seed.
    let start (seed: int) (count: int) : struct (float * float)[] =
        let numbers = Rng.ofSeed seed |> Rng.split "tsne" |> Rng.normals (2 * count)
        Array.init count (fun i -> struct (1e-4 * numbers[2 * i], 1e-4 * numbers[2 * i + 1]))

    /// Embeds the points in the plane, centred at the origin: a pure function of points and options.
    let run (options: TsneOptions) (points: float[][]) : struct (float * float)[] =
        if options.Iterations < 1 then
            invalidArg (nameof options) $"there must be at least 1 iteration, got {options.Iterations}."

        let p = joint options.Perplexity points
        let n = points.Length
        let early = options.Iterations / 4
        let exaggeration = 12.0
        // Belkina et al. 2019 (doi:10.1038/s41467-019-13055-y): n over the exaggeration. The gradient's factor 4 is
        // part of the rate here.
        let rate = max 50.0 (float n / exaggeration / 4.0)
        let places = start options.Seed n
        let axes () = Array.init n (fun _ -> [| 0.0; 0.0 |])
        let velocity, gains, force = axes (), Array.init n (fun _ -> [| 1.0; 1.0 |]), axes ()
        let q = triangle n

        for iteration in 0 .. options.Iterations - 1 do
            let factor, momentum = if iteration < early then exaggeration, 0.5 else 1.0, 0.8
            let total = kernel places q

            for row in force do
                Array.Clear row

            for i in 0 .. n - 1 do
                let struct (x, y) = places[i]
                let forceOnI = force[i]

                for j in 0 .. i - 1 do
                    let struct (u, v) = places[j]
                    let pull = 4.0 * (factor * p[i][j] - q[i][j] / total) * q[i][j]
                    let dx, dy = pull * (x - u), pull * (y - v)
                    forceOnI[0] <- forceOnI[0] + dx
                    forceOnI[1] <- forceOnI[1] + dy
                    force[j][0] <- force[j][0] - dx
                    force[j][1] <- force[j][1] - dy

            for i in 0 .. n - 1 do
                for axis in 0..1 do
                    let same = (force[i][axis] > 0.0) = (velocity[i][axis] > 0.0)
                    gains[i][axis] <- max 0.01 (if same then 0.8 * gains[i][axis] else gains[i][axis] + 0.2)
                    velocity[i][axis] <- momentum * velocity[i][axis] - rate * gains[i][axis] * force[i][axis]

                let struct (x, y) = places[i]
                places[i] <- struct (x + velocity[i][0], y + velocity[i][1])

            let meanX = places |> Array.averageBy (fun struct (x, _) -> x)
            let meanY = places |> Array.averageBy (fun struct (_, y) -> y)

            for i in 0 .. n - 1 do
                let struct (x, y) = places[i]
                places[i] <- struct (x - meanX, y - meanY)

        places
