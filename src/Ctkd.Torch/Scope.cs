namespace Ctkd.Torch;

/// <summary>
/// A lexical region that frees the tensors made inside it when it closes, except those that are kept, which move to the
/// scope around it. Scopes belong to one thread and close in the reverse of the order in which they were opened.
/// </summary>
public sealed class Scope : IDisposable
{
    [ThreadStatic] private static Scope? current;
    [ThreadStatic] private static Scope? spare;

    private readonly List<Tensor> owned = [];
    private readonly int thread = Environment.CurrentManagedThreadId;
    private Scope? outer;
    private bool open;

    private Scope()
    {
    }

    /// <summary>Opens a scope inside the present one. Closed scopes are used again: no allocation a call.</summary>
    public static Scope Open()
    {
        var scope = spare ?? new Scope();
        spare = scope.outer;
        scope.outer = current;
        scope.open = true;
        return current = scope;
    }

    internal static void Adopt(Tensor tensor)
    {
        tensor.Owner = current;
        current?.owned.Add(tensor);
    }

    /// <summary>
    /// Lets a tensor of this scope survive it. A tensor that the scope does not own is left as it is, so a function may
    /// return its own argument.
    /// </summary>
    public void Keep(Tensor tensor)
    {
        if (tensor.Owner != this)
            return;
        tensor.Owner = outer;
        outer?.owned.Add(tensor);
    }

    /// <summary>Frees what was made inside and not kept.</summary>
    public void Dispose()
    {
        if (!open)
            return;
        if (thread != Environment.CurrentManagedThreadId)
            throw new InvalidOperationException("a tensor scope was closed on another thread than it was opened on");
        if (current != this)
            throw new InvalidOperationException("tensor scopes must close in the reverse of the order they were opened in");

        current = outer;
        open = false;
        foreach (var tensor in owned)
            if (tensor.Owner == this)
            {
                tensor.Owner = null;
                tensor.Dispose();
            }
        owned.Clear();
        outer = spare;
        spare = this;
    }
}
